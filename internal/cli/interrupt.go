package cli

import (
	"context"
	"time"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/cas/api"
)

// An interrupt doesn't take back what a server was asked for. So whoever asks for what
// lasts waits a little for the answer, and then undoes it, or says what goes on.

// lastAnswer is how long the answer to such a request is waited for after an interrupt.
const lastAnswer = 5 * time.Second

// answered is a context for such a request: it ends that much later than ctx.
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

// makeGrant makes a grant for what the command does next. One that is made for a command
// that was interrupted meanwhile is withdrawn.
func (g *globals) makeGrant(ctx context.Context, c *client.Client, want api.NewGrant) (api.GrantMade, error) {
	if ctx.Err() != nil {
		return api.GrantMade{}, ctx.Err()
	}
	asking, done := answered(ctx)
	defer done()
	made, err := c.MakeGrant(asking, want)
	switch {
	case ctx.Err() == nil:
		return made, err
	case err == nil:
		g.withdraw(ctx, c, made.Grant)
	case asking.Err() != nil:
		g.warnf("The CAS doesn't say whether it made a grant. Look with 'cupel session grants %s', and end one that is open with --withdraw.", want.Session)
	}
	return api.GrantMade{}, ctx.Err()
}

// withdraw ends the grant that was made for something that came to nothing.
func (g *globals) withdraw(ctx context.Context, c *client.Client, grant api.Grant) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	if _, err := c.WithdrawGrant(ctx, grant.ID); err != nil {
		g.warnf("The grant %s that was made for this is not withdrawn: %v", grant.ID.Short(), err)
		g.warnf("  withdraw it: cupel session grants %s --withdraw %s", grant.Session, grant.ID)
	}
}
