"""The sagas of the shop. Most begin and decide in `orders`, so their journal is there."""

from orders.cancel_order import cancel_order
from orders.databases import databases, orders
from orders.place_order import place_order
from polysaga import Sagas

sagas = Sagas(databases, place_order, cancel_order, journal=orders)
