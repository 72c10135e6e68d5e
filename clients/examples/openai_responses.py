"""The Responses API: a strategy by model name, and a follow-up that refers to the response before it."""

import argparse
import os

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m@self_refine")
args = parser.parse_args()

client = OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
first = client.responses.create(model=args.model, input="What is the capital of Italy?", max_output_tokens=64)
print(first.output_text)
second = client.responses.create(
    model=args.model, input="Name one sight there.", previous_response_id=first.id, max_output_tokens=64
)
print(second.output_text)
print("usage:", second.usage)
