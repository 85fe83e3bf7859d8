"""`/v1/admin`: what the vendor's own people do, with a staff key."""
