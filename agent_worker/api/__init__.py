"""HTTP, SSE and WebSocket endpoints.

sessions      create, read, delete, and turns as JSON or as events
events        a session's events, from an id on
websocket     turns over a WebSocket; socket_events: the session's log on its way to a socket
ephemeral     turns that keep nothing
chat          OpenAI's API: chat_requests and chat_messages in, chat_chunks and chat_errors out;
              chat_resume: a stream goes on
operations    health, readiness, drain, metrics

bodies        what clients send, checked
principals    who is asking
headers       what every response carries
sse           the format of events
errors        the one place where an error becomes a response
connections   none is cut off when the server stops
"""
