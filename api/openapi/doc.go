// Package openapi holds the OpenAPI documents of the three APIs that Cupel's parts serve
// over the network. The servers answer with them, and the tests hold the servers to them.
//
// Documents only: text that nobody changes, safe for concurrent use. It trusts nobody.
package openapi
