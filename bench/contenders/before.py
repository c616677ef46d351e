"""A program that polls the exchange by itself, with requests, one call after the other."""

from typing import Any

import redis
import requests

from bench.contenders import Job, Timeframe, keep


def main() -> None:
    job = Job.from_env()
    client = redis.Redis.from_url(job.redis_url)
    session = requests.Session()

    def fetch(symbol: str, interval: str) -> Any:
        params: dict[str, str | int] = {"symbol": symbol, "interval": interval, "limit": job.limit}
        response = session.get(f"{job.exchange_url}/api/v3/klines", params=params, timeout=10)
        response.raise_for_status()
        return response.json()

    def refresh(timeframe: Timeframe) -> None:
        series = [fetch(symbol, timeframe.name) for symbol in job.symbols]
        with client.pipeline() as pipeline:
            job.fill(pipeline, timeframe, series)
            pipeline.execute()

    keep(job, refresh)


if __name__ == "__main__":
    main()
