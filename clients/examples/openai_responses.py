"""The Responses API: a strategy by model name, and a second turn."""

import argparse
import os

from openai import OpenAI
from openai.types.responses import ResponseInputParam

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m@best_of_n")
args = parser.parse_args()

client = OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
turns: ResponseInputParam = [{"role": "user", "content": "What is the capital of Italy?"}]
first = client.responses.create(model=args.model, input=turns, temperature=0.3, max_output_tokens=64)
print(first.output_text)
# Kept here: a server keeps responses for `previous_response_id` only where its operator allows it.
turns += [{"role": "assistant", "content": first.output_text}, {"role": "user", "content": "Name one sight there."}]
second = client.responses.create(model=args.model, input=turns, temperature=0.3, max_output_tokens=64)
print(second.output_text)
print("usage:", second.usage)
