"""The refusals of the shop. Each is a problem with a stable type, and its message says what to do."""

from uuid import UUID

from polysaga import Refused


class UnknownProduct(Refused):
    """The shop does not sell this."""

    def __init__(self, product_id: str) -> None:
        message = f"there is no product '{product_id}'; create it with PUT /products/{product_id}"
        super().__init__(message, product_id=product_id)


class OutOfStock(Refused):
    """The stock is smaller than the order; nothing was taken."""

    def __init__(self, product_id: str, *, wanted: int, left: int) -> None:
        message = f"product '{product_id}' has {left} left, not {wanted}; order at most {left} or come back later"
        super().__init__(message, product_id=product_id, wanted=wanted, left=left)


class UnknownOrder(Refused):
    """No order has this id."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"there is no order {order_id}; GET /orders lists them", order_id=str(order_id))


class OrderNotCancellable(Refused):
    """Only a confirmed order can be cancelled."""

    def __init__(self, order_id: UUID, *, status: str) -> None:
        remedy = "wait for its outcome first" if status == "pending" else "there is nothing to cancel"
        super().__init__(
            f"order {order_id} is {status}, and only confirmed orders can be cancelled; {remedy}",
            order_id=str(order_id),
            order_status=status,
        )


STATUSES = {UnknownProduct.code: 404, UnknownOrder.code: 404, OutOfStock.code: 409, OrderNotCancellable.code: 409}
