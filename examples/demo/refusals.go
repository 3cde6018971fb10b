package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// refuse shows what doesn't work: who knows a session's name is no owner, and an
// operator who changes what starts gets no secret. What runs goes on.
func (d *demo) refuse(ctx context.Context) error {
	if err := d.strangerDeploys(ctx); err != nil {
		return err
	}
	return d.operatorTampers(ctx)
}

// strangerDeploys has somebody else deploy the owner's session.
func (d *demo) strangerDeploys(ctx context.Context) error {
	d.title("A stranger, who knows the session's name, tries to deploy it.")

	at, err := d.endpoint()
	if err != nil {
		return err
	}

	if _, err := d.stranger.ask(ctx, "cupel", "cas", "attest", at.casAddress, "--trust-simulation", at.Simulation); err != nil {
		return err
	}

	if err := d.stranger.mustRefuse(ctx, "access_policy", "cupel", "deploy", session, "--runtime", "python"); err != nil {
		return err
	}

	d.say("Refused by the CAS: the session says who may read it and who may grant that it is run, and that is its owner's key. The stranger has another.")
	return nil
}

// operatorTampers has the operator put another image in the place of the owner's, and
// the owner deploy again.
func (d *demo) operatorTampers(ctx context.Context) error {
	d.title("The operator tampers: one variable more in the image, so that Python would load the operator's code before the app's.")

	at, err := d.endpoint()
	if err != nil {
		return err
	}

	image, err := pullImage(ctx, at.Registry, "runtimes/python")
	if err != nil {
		return err
	}

	d.operator.showText("# in the registry, as runtimes/python:latest: ENV PYTHONPATH=/tmp/operator")
	if err := image.pushWith(ctx, "PYTHONPATH=/tmp/operator"); err != nil {
		return err
	}

	refused := d.owner.mustRefuse(ctx, "measurement", "cupel", "deploy", session)

	// Whatever came of it, and whoever interrupted it, the true image is put back.
	if err := errors.Join(refused, image.restore(context.WithoutCancel(ctx))); err != nil {
		return err
	}

	d.say("The changed image started, proved what it is, and got nothing: its measurement isn't the one that the session names.")
	d.say("What ran before goes on, and the operator put the true image back:")
	return d.owner.run(ctx, "cupel", "ps", session)
}

// endpoint is what the operator's folder tells every user of the machine.
type endpoint struct {
	Registry string `json:"registry"`
	CAS      struct {
		Owners string `json:"owners"`
	} `json:"cas"`
	Simulation string `json:"simulation"`
	casAddress string
}

// reach tells how to look at what the demo left running: it has folders of its own.
func (d *demo) reach() {
	cupel := filepath.Join(d.dir, "bin", "cupel")
	d.say("\nIt goes on running, with folders of its own, so a bare `cupel ps` finds nothing. Name them:")
	d.say("  operator  %s ps --state %s", cupel, d.state())
	d.say("  owner     setpriv --reuid %d --regid %d --clear-groups %s verify %s --state %s --config %s",
		nobody, nobody, cupel, session, d.state(), filepath.Join(d.owner.dir, "cupel"))
	d.say("  user      curl --cacert %s https://localhost:%s/", filepath.Join(d.user.dir, "app-ca.pem"), d.note("port"))
	d.say("  or        export CUPEL_STATE=%s", d.state())
	d.say("Stop:  make demo-down")
}

// mustRefuse shows and runs a command that has to be refused by a rule: it is an error
// if it isn't, or by another.
func (p *party) mustRefuse(ctx context.Context, rule string, args ...string) error {
	p.show(args, "")

	var said bytes.Buffer
	cmd := p.command(ctx, args...)
	cmd.Stdout = p.out
	cmd.Stderr = io.MultiWriter(os.Stderr, &said)

	err := cmd.Run()

	if ctx.Err() != nil {
		return ctx.Err()
	}

	if err == nil || !strings.Contains(said.String(), ": "+rule+": ") {
		return fmt.Errorf("%s: %s was not refused by the rule %s", p.name, strings.Join(args, " "), rule)
	}

	return nil
}

// showText shows what somebody does that is no command.
func (p *party) showText(text string) {
	_, _ = fmt.Fprintf(p.out, "%s %s\n", paint(p.out, cyan, p.name+"$"), text)
}
