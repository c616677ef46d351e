"""Programs that read what the service writes to Redis; none of them calls the exchange."""
