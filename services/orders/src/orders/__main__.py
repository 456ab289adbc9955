"""`python -m orders`: see `orders.cli`."""

from orders.cli import main

if __name__ == "__main__":
    main()
