"""The listener for webhooks behind `nightreel listen`: a webhook only causes an earlier poll.

`server` runs two servers in one process. Providers post to the public one. `signatures`
verifies each post by its provider's scheme, over the exact bytes and within five minutes,
before it parses the body. `jwks` fetches and keeps the public keys of fal and Atlas Cloud. A
verified delivery becomes a hint: a provider's name and the id of one of its jobs. Engines ask
the private server for new hints (`hints`), and poll these jobs at once. A hint carries no
state and is kept in memory only, so a lost or repeated one does no harm: polling continues
without it.
"""
