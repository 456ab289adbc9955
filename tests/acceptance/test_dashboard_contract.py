"""The dashboard's API answers as its document says, whatever it is asked."""

from tests.fixtures.contracts import keep_contract
from tests.fixtures.dashboards import mounted, served
from tests.fixtures.programs import MigratedUrls
from tests.integration.test_repairs import parked, stuck_going_back


async def test_no_request_gets_an_answer_that_the_document_does_not_have(files: MigratedUrls) -> None:
    program = stuck_going_back(files)
    async with program.open(), served(mounted(program, authorize=None)) as url:
        for number in range(3):
            await parked(program, key=f"k-{number}")
        options = ("--phases=examples,coverage,fuzzing", "--max-examples=25")
        await keep_contract(f"{url}/dashboard/api/openapi.json", *options)
