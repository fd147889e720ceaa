"""Errors as answers, in the dialect of the route that was called."""

from serve.errors import NO_CLOUD, BadEncoding, ClientError, RayllamaError
from serve.web.reply import Header, Reply
from serve.wire.errors import Origin, anthropic_error, native_error, openai_error


def failure(error: RayllamaError, route: str) -> Reply:
    """The whole answer for an error that came before the first byte.

    What Ollama finds before it looks at a request's dialect is said in its own: a body that can't
    be unpacked, and a model of the cloud.
    """
    is_of_a_dialect = not isinstance(error, BadEncoding) and not str(error).startswith(NO_CLOUD)
    if route.startswith("/v1/") and is_of_a_dialect:
        origin: Origin = "form" if isinstance(error, ClientError) else "model"
        say = anthropic_error if route == "/v1/messages" else openai_error
        rendered = say(error, origin=origin)
    else:
        rendered = native_error(error)
    headers: list[Header] = []
    if rendered.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % rendered.retry_after_s))
    return Reply(rendered.status, rendered.content_type.encode(), rendered.body, headers=headers)
