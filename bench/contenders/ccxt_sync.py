"""ccxt as in the first examples of its manual: synchronous, with its own rate limiting."""

import ccxt
import redis

from bench.contenders import Job, Timeframe, keep, point_at, unified


def main() -> None:
    job = Job.from_env()
    client = redis.Redis.from_url(job.redis_url)
    # Without trust in the environment it ignores REQUESTS_CA_BUNDLE.
    exchange = ccxt.binanceus({"enableRateLimit": True, "requests_trust_env": True})
    point_at(exchange, job.exchange_url)
    exchange.load_markets()

    def refresh(timeframe: Timeframe) -> None:
        series = [
            exchange.fetch_ohlcv(unified(symbol), timeframe.name, limit=job.limit)
            for symbol in job.symbols
        ]
        with client.pipeline() as pipeline:
            job.fill(pipeline, timeframe, series)
            pipeline.execute()

    keep(job, refresh)


if __name__ == "__main__":
    main()
