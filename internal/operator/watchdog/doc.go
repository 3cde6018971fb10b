// Package watchdog tells a process that hangs from one that is only slow, so that it
// can be ended and started again.
//
// A process hangs if it leaves a question without an answer for the whole patience and
// does nothing meanwhile: no thread of it runs, waits for a processor or waits for a
// device, and it needs no processor's time to speak of. Under whatever load of the
// machine, and however many strangers ask it at once, one that works is left alone. Time
// for which the caller itself stood still, as it was stopped or its machine slept, is no
// time of the patience.
//
// It ends nothing and keeps nothing: its caller does.
//
// It trusts what the kernel says of the process, and no word of the process's own. A
// Process may be watched by several at once; the file reads from Watch downwards.
package watchdog
