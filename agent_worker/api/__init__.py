"""HTTP, SSE and WebSocket endpoints."""
