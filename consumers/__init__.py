"""Programs that live off what the service puts into Redis; none of them talks to the exchange."""
