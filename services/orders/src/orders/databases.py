"""The databases of the shop, by name. Only the settings know which servers stand behind the names."""

from orders.settings import load
from polysaga import AnyDatabase, Databases, SqlDatabase

orders = SqlDatabase("orders")
points = SqlDatabase("points")
inventory = AnyDatabase("inventory")  # MongoDB in the full installation, SQLite in the small one

databases = Databases(orders, points, inventory, settings=load)
