"""Send prompts and conversations to a server with OpenAI's chat API, and sum up the usage."""

import fanout

REVIEWS = ["The battery lasts for days.", "It broke after a week.", "Does what it should."]
TALK = [
    {"role": "user", "content": "The battery lasts for days."},
    {"role": "assistant", "content": "positive"},
    {"role": "user", "content": "And now this one: it broke after a week."},
]


def main() -> None:
    codec = fanout.codec(
        "openai-chat",
        model="echo",
        system="Is the review positive or negative? Answer with one word.",
        extra={"temperature": 0, "max_tokens": 4},
    )
    # For the real API: "https://api.openai.com", auth=fanout.BearerAuth(token=os.environ["OPENAI_API_KEY"]).
    # The local server only repeats the first four words of the prompt.
    with fanout.SyncClient("local://echo", codec=codec, limits=fanout.Limits(concurrency=8)) as client:
        result = client.map([*REVIEWS, TALK, ""], on_error="keep")
    for text, reason, ok in zip(result.values["text"], result.values["finish_reason"], result.ok, strict=True):
        print(f"{text!r}, ended by {reason}" if ok else "no answer")
    for failure in result.failures:
        print(failure)
    print(f"usage: {result.stats.usage}")


if __name__ == "__main__":
    main()
