"""Clients that know nothing of strategies, against an alias."""

from typing import Any

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from tests.servers import Server


def test_langchain(server: Server) -> None:
    chat = ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        model=server.alias("best_of_n"),
        max_completion_tokens=12,
        temperature=0.7,
        seed=1,
    )
    talk = [SystemMessage("You are terse."), HumanMessage("Name a colour.")]
    answer = chat.invoke(talk)
    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 12
    streamed = "".join(chunk.text for chunk in chat.stream(talk))
    assert streamed == answer.text


async def test_openai_agents(server: Server) -> None:
    """An agent that must call a tool, gets its result, and answers: two requests, each refined."""
    set_tracing_disabled(True)
    called: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return "7 degrees and rain"

    client = server.async_client
    agent: Agent[Any] = Agent(
        name="weather",
        instructions="Answer with the tool.",
        tools=[get_weather],
        model=OpenAIChatCompletionsModel(model=server.alias("direct"), openai_client=client),
        model_settings=ModelSettings(tool_choice="required", max_tokens=60, temperature=0, parallel_tool_calls=False),
        tool_use_behavior="run_llm_again",
    )
    result = await Runner.run(agent, "How is the weather in Oslo?", max_turns=3)
    assert called
    assert result.final_output is not None
    assert len(result.raw_responses) == 2
    assert all(response.usage.output_tokens > 0 for response in result.raw_responses)
    await client.close()


async def test_openai_agents_stream_with_thoughts(server: Server) -> None:
    set_tracing_disabled(True)
    client = server.async_client
    agent: Agent[Any] = Agent(
        name="colours",
        instructions="Be terse.",
        model=OpenAIChatCompletionsModel(model=server.alias("best_of_n"), openai_client=client),
        model_settings=ModelSettings(max_tokens=12),
    )
    result = Runner.run_streamed(agent, "Name a colour.")
    events = [event async for event in result.stream_events()]
    assert events
    assert result.final_output
    await client.close()
