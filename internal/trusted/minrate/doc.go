// Package minrate ends answers that come too slowly. A server that sends a byte now and then
// keeps whoever reads to the end waiting for ever; one limit for the whole of an answer
// would end what is long and comes over a slow network. So each 128 KiB, or what is left,
// has a time to come in.
//
// It trusts nothing of the server. Time in which the reader does something else, such as
// waiting for a person who pages through what it shows, doesn't count. A Transport is safe for
// concurrent use; the body of an answer is read by one goroutine.
package minrate
