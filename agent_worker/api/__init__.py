"""HTTP, SSE and WebSocket endpoints.

sessions      create, read, delete, and turns as JSON or as events
events        a session's events after an id
websocket     turns over a WebSocket; socket_connection: one client, socket_events: its events
ephemeral     turns without a session
chat          OpenAI's API: chat_requests and chat_messages in, chat_chunks and chat_errors out;
              chat_resume: the continuation of a stream
operations    health, readiness, drain, metrics

bodies        parses what clients send
principals    authentication
headers       the headers of every response
sse           the format of events
errors        converts errors to responses
connections   closes connections gracefully when the server stops
"""
