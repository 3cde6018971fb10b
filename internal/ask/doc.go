// Package ask asks the person at a terminal. An interrupt ends each question.
//
// It owns nothing and trusts nobody: an answer is a line of text. One question is asked at
// a time, by one goroutine.
//
// All of it is in ask.go: Terminal says whether there is a person, Line asks, and Hidden
// asks for what the terminal doesn't show.
package ask
