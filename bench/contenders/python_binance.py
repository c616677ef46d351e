"""python-binance's AsyncClient and redis.asyncio."""

import asyncio

import redis.asyncio
from binance import AsyncClient

from bench.contenders import Job, Timeframe, keep_async


async def main() -> None:
    job = Job.from_env()
    client = redis.asyncio.from_url(job.redis_url)
    exchange = AsyncClient(tld="us")
    exchange.API_URL = f"{job.exchange_url}/api"  # it has no setting for another base URL

    async def refresh(timeframe: Timeframe) -> None:
        calls = [
            exchange.get_klines(symbol=symbol, interval=timeframe.name, limit=job.limit)
            for symbol in job.symbols
        ]
        series = await asyncio.gather(*calls)
        async with client.pipeline() as pipeline:
            job.fill(pipeline, timeframe, series)
            await pipeline.execute()

    try:
        await keep_async(job, refresh)
    finally:
        await exchange.close_connection()


if __name__ == "__main__":
    asyncio.run(main())
