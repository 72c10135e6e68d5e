"""The OpenAI SDK, nothing else: the model name chooses the strategy."""

import argparse
import os

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m@best_of_n")
args = parser.parse_args()

client = OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
completion = client.chat.completions.create(
    model=args.model,
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    max_tokens=64,
    temperature=0.3,
)
print(completion.choices[0].message.content)
print("usage:", completion.usage)
print("strategy:", (completion.model_extra or {}).get("strategy"))
