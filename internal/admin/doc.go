// Package admin is the HTTP server with which people and programs look at the flows of a
// process and steer them, and the client that the commands use.
//
// What belongs here: the server, the rules on who may ask it, its API under /v1 with its OpenAPI
// document, the pages for metrics, health and profiles, and the client. What does not: what
// the flows do when they are told to (supervisor), and how answers look to a person
// (cmd/penstock).
//
// The API is described by openapi.json, which the server serves at /v1/openapi.json; a test
// holds handlers and document together. Names are in snake case, times in RFC 3339,
// durations in seconds. An answer gains fields in later versions and loses none.
package admin
