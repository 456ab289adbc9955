"""The same three no-op steps as a Restate service, as its documentation says: https://docs.restate.dev

Served by Hypercorn with the limits of Restate's page on production, in one process, like the other sides.
"""

import restate

trio = restate.Service("trio")


async def step(number: int) -> int:
    return number


@trio.handler()
async def no_op(ctx: restate.Context, number: int) -> int:
    await ctx.run_typed("first", step, restate.RunOptions(), number)
    await ctx.run_typed("second", step, restate.RunOptions(), number)
    return await ctx.run_typed("third", step, restate.RunOptions(), number)


app = restate.app(services=[trio])
