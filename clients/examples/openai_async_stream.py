"""Streams with the async OpenAI SDK: thoughts dimmed, then the answer. The strategy and its budget are in the body."""

import argparse
import asyncio
import os

from openai import AsyncOpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m")
args = parser.parse_args()


async def main() -> None:
    """Ask, and print what comes."""
    client = AsyncOpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    stream = await client.chat.completions.create(
        model=args.model,
        messages=[{"role": "user", "content": "A book costs 5 dollars. How much do 4 cost? Be brief."}],
        temperature=0.3,
        stream=True,
        extra_body={"strategy": {"name": "self_refine", "budget": {"max_tokens": 256}}},
    )
    async for delta in (choice.delta async for chunk in stream for choice in chunk.choices):
        thought = getattr(delta, "reasoning", None)
        print(f"\033[2m{thought}\033[0m" if thought else delta.content or "", end="", flush=True)


asyncio.run(main())
