"""LangChain: a model name with a strategy, like any other chat model. Needs `pip install langchain-openai`."""

import argparse
import os

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m@best_of_n")
args = parser.parse_args()

key = SecretStr(os.environ.get("OPENAI_API_KEY", "none"))
chat = ChatOpenAI(base_url=args.base_url, api_key=key, model=args.model, temperature=0.3, max_completion_tokens=64)
reply = chat.invoke("What is the capital of France?")
print(reply.text)
print("usage:", reply.response_metadata.get("token_usage"))
