// Package minion is the agent's end of the Minion protocol: it delivers log lines,
// measurements and the answers to commands to a StreamServer, and takes commands.
//
// Whoever has something to say says it to a [Client], which returns at once and keeps
// it in a spool. From there it goes, in order, to the first StreamServer that can be
// reached, over TLS with the control plane's CA pinned, or in the clear. One connection
// is open at a time; after a failure the next address is tried, and after a round
// without success the client waits for a random time, at most 2 s at first and a
// minute in the end.
//
// # Two dialects
//
// Our StreamServer says which records it keeps durably. Only then do they leave the
// spool, and what was under way when a connection broke is sent again under the same
// ids, of which the server keeps one: nothing is lost and nothing is doubled.
//
// The original StreamServer says nothing, and loses a batch of its neighbours' rows
// when an id comes twice. To it a record has been delivered when the server's machine
// has acknowledged the bytes (TCP's acknowledgement, not the program's); what had been
// written without that is sent again under a new id. So a record may come
// twice, and those that the server had not read when it died are lost. An id is never
// used twice, not after a restart either.
//
// Which one it is, is known before the first record: the client asks for
// acknowledgements, then sends a heartbeat. The original answers only the second.
//
// # Without a StreamServer
//
// Where no disk may be used and no StreamServer can be reached, records go over
// another way to the control plane, if there is one (Options.Session), under the same
// ids.
package minion
