"""A tool call. Named and `strict`, a tool binds the model by grammar, so that even a very small one gets it right."""

import argparse
import os

from openai import OpenAI
from openai.types.chat import ChatCompletionToolParam

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"))
parser.add_argument("--model", default="smollm2-135m@self_refine")
args = parser.parse_args()

city: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
weather: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": city, "strict": True},
}
client = OpenAI(base_url=args.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
completion = client.chat.completions.create(
    model=args.model,
    messages=[{"role": "user", "content": "How is the weather in Paris?"}],
    tools=[weather],
    tool_choice={"type": "function", "function": {"name": "get_weather"}},
    max_tokens=64,
)
for call in completion.choices[0].message.tool_calls or []:
    if call.type == "function":
        print(call.function.name, call.function.arguments)
