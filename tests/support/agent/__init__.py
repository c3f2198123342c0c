"""What the tests of agent_worker share, by concept.

engines         engines and tools that a test controls
running_worker  a worker in this process; program: one in a process of its own
runtime         turns over HTTP, and workers that are cut off from Redis
takeover        clients that go on elsewhere when a worker is lost
chat            the SDK of OpenAI before a balancer and workers
sessions        the session store, and all that Redis holds
redis, tools    scripts that leave a trace; a context for a tool call
"""
