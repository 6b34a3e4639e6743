"""A chain of LangChain whose calls are recorded by a hook, without callbacks in the chain.

Run it with `OPENAI_API_KEY=... python examples/langchain_chain.py`.
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

import genmeter
import genmeter.hooks
from genmeter import GenerationMonitor

MODEL = os.environ.get("MODEL", "gpt-4o-mini")
TOPICS = ["rivers", "glass", "sleep"]

if __name__ == "__main__":
    with GenerationMonitor() as monitor:
        genmeter.hooks.install("langchain", monitor=monitor)
        prompt = ChatPromptTemplate.from_template("Write one question about {topic}.")
        chain = prompt | ChatOpenAI(model=MODEL) | StrOutputParser()
        with genmeter.step("question"):
            for question in chain.batch([{"topic": topic} for topic in TOPICS]):
                print(question)
        print(monitor.get_total_token_usage())
