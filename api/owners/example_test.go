package owners_test

import (
	"fmt"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// The code of a grant is one line that names the CAS and the grant.
func ExampleParseGrantCode() {
	code := owners.GrantCode{CAS: ident.KeyHash{1}, Grant: owners.GrantID{0xab, 0xcd}, Secret: [16]byte{2}}
	read, err := owners.ParseGrantCode(" " + code.String() + "\n")
	fmt.Println(read == code, read.Grant.Short(), err)

	_, err = owners.ParseGrantCode("my password")
	fmt.Println(err) // which doesn't repeat what was given
	// Output:
	// true abcd0000 <nil>
	// grant_code: 11 characters that are no code (expected one line that begins with "cupel1."); copy all of what 'cupel session submit' printed
}

// A token travels in JSON, and is printed nowhere else.
func ExampleGrantToken() {
	token := owners.NewGrantToken(owners.GrantID{1}, [32]byte{2})
	id, _, ok := token.Split()
	fmt.Println(token, id.Short(), ok)
	// Output: [grant token] 01000000 true
}

// The header HeadHeader of every reply carries the signed end of the CAS's audit log.
func ExampleHeadFrom() {
	head, err := owners.HeadFrom(owners.EncodeHead(owners.SignedHead{Seq: 7}))
	fmt.Println(head.Seq, err)
	// Output: 7 <nil>
}
