"""ccxt.async_support and redis.asyncio; OPTION says whether its rate limiting is "on" or "off"."""

import asyncio
import os

import ccxt.async_support
import redis.asyncio

from bench.contenders import Job, Timeframe, keep_async, point_at, unified


async def main() -> None:
    job = Job.from_env()
    client = redis.asyncio.from_url(job.redis_url)
    config: dict[str, object] = {"enableRateLimit": job.option != "off"}
    if "SSL_CERT_FILE" in os.environ:
        config["cafile"] = os.environ["SSL_CERT_FILE"]  # which it would not read by itself
    async with ccxt.async_support.binanceus(config) as exchange:
        point_at(exchange, job.exchange_url)
        await exchange.load_markets()

        async def refresh(timeframe: Timeframe) -> None:
            calls = [
                exchange.fetch_ohlcv(unified(symbol), timeframe.name, limit=job.limit)
                for symbol in job.symbols
            ]
            series = await asyncio.gather(*calls)
            async with client.pipeline() as pipeline:
                job.fill(pipeline, timeframe, series)
                await pipeline.execute()

        await keep_async(job, refresh)


if __name__ == "__main__":
    asyncio.run(main())
