package cli

import (
	"context"
	"fmt"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/template"
)

// An interrupt doesn't take back what a server was asked for. So whoever asks for what
// lasts waits a little for the answer, and then undoes it, or says what goes on.

// lastAnswer is how long the answer to such a request is waited for after an interrupt.
const lastAnswer = 5 * time.Second

// answered is a context for a request whose effect stays: it ends lastAnswer later than
// ctx, so that the answer can still be read.
func answered(ctx context.Context) (context.Context, context.CancelFunc) {
	asking, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(lastAnswer, cancel)
	})
	return asking, func() {
		stop()
		cancel()
	}
}

// lasting makes a request whose effect stays. After an interrupt its answer still counts:
// what was done is said as ever. Without one, look is the command that shows how it went.
func lasting[T any](ctx context.Context, g *globals, look string, request func(ctx context.Context) (T, error)) (T, error) {
	if ctx.Err() != nil {
		var none T
		return none, ctx.Err()
	}

	asking, done := answered(ctx)
	defer done()
	out, err := request(asking)
	if asking.Err() != nil {
		g.warnf("No answer came that says whether it was done. Look with '%s'.", g.inState(look))
		return out, ctx.Err()
	}
	return out, err
}

// makeGrant makes a grant for what the command does next. One that is made for a command
// that was interrupted meanwhile is withdrawn.
func (g *globals) makeGrant(ctx context.Context, c *client.CAS, want owners.NewGrant) (owners.GrantMade, error) {
	if err := template.CheckSessionName(want.Session); err != nil {
		return owners.GrantMade{}, err
	}

	made, err := lasting(ctx, g, "cupel session grants "+string(want.Session), func(ctx context.Context) (owners.GrantMade, error) { return c.MakeGrant(ctx, want) })
	if err == nil && ctx.Err() != nil {
		g.withdraw(ctx, c, made.Grant)
		return owners.GrantMade{}, ctx.Err()
	}
	return made, err
}

// withdraw ends the grant that was made for something that came to nothing, or says how
// to; false: it couldn't.
func (g *globals) withdraw(ctx context.Context, c *client.CAS, grant owners.Grant) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()

	if _, err := c.WithdrawGrant(ctx, grant.ID); err != nil {
		g.warnf("The grant %s that was made for this is not withdrawn: %v", grant.ID.Short(), err)
		g.warnf("  withdraw it: %s", withdrawCommand(grant.Session, grant.ID.Short()))
		return false
	}
	return true
}

// withdrawCommand is what ends a grant of a session's, which is named by the beginning of
// its id.
func withdrawCommand(session ident.SessionName, grant string) string {
	return fmt.Sprintf("cupel session grants %s --withdraw %s", session, grant)
}
