"""What people ask and order: pages, repairs, verification."""
