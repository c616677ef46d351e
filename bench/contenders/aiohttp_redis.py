"""asyncio, aiohttp and redis.asyncio; OPTION is the most connections (aiohttp's default is 100)."""

import asyncio
from typing import Any

import aiohttp
import redis.asyncio

from bench.contenders import Job, Timeframe, keep_async


async def main() -> None:
    job = Job.from_env()
    client = redis.asyncio.from_url(job.redis_url)
    connector = aiohttp.TCPConnector(limit=int(job.option or 100))
    async with aiohttp.ClientSession(job.exchange_url, connector=connector) as session:

        async def fetch(symbol: str, interval: str) -> Any:
            params = {"symbol": symbol, "interval": interval, "limit": str(job.limit)}
            async with session.get("/api/v3/klines", params=params) as response:
                response.raise_for_status()
                return await response.json()

        async def refresh(timeframe: Timeframe) -> None:
            calls = [fetch(symbol, timeframe.name) for symbol in job.symbols]
            series = await asyncio.gather(*calls)
            async with client.pipeline() as pipeline:
                job.fill(pipeline, timeframe, series)
                await pipeline.execute()

        await keep_async(job, refresh)


if __name__ == "__main__":
    asyncio.run(main())
