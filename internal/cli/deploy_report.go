package cli

import (
	"cmp"
	"context"
	"crypto/x509"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
)

// handedIn tells that the app is somebody else's, whose code this was: only they
// may look at it.
func (d *deployment) handedIn(app manager.App) error {
	if d.g.json() {
		return d.g.printLine(deployReply{App: app, Instances: []manager.Instance{}})
	}

	d.g.printf("%s: the manager took the code, and says that the deployment began.\nThe app belongs to the key that made the grant, which can check that: cupel verify %s\n", app.Name, app.Name)
	return nil
}

// unchecked tells of a deployment by somebody who may grant, and not read.
func (d *deployment) unchecked(app manager.App) error {
	if d.g.json() {
		return d.g.printLine(deployReply{App: app, Instances: []manager.Instance{}})
	}

	d.g.printf("\n%s: the manager says that revision %d serves, on port %d.\n", app.Name, app.Revision, app.Port)
	d.g.warnf("You may grant that session %s is run, and not read it: nothing of this was checked. Let somebody who may read it run: cupel verify %s", d.session, app.Name)
	return nil
}

// look connects to the app and sees what answers there. With the session's own
// certificate that has to be an instance of this deployment, as the CAS confirmed it:
// for a while (--wait) connections may still lead to what ran before.
func (d *deployment) look(ctx context.Context, app manager.App, instances []manager.Instance) ([]manager.Instance, found, error) {
	if asked := d.asked.Port; asked != 0 && app.Port != asked {
		return nil, found{}, problem.New(problem.Denied, ruleAppPort, "%s is at port %d, by the manager's word", app.Name, app.Port).
			Want("port %d, as --port says", asked).Fix("your users would not find it there: deploy again, and ask the operator")
	}

	ca, err := d.cas.Value(ctx, d.session, appCA)
	if err != nil {
		return nil, found{}, err
	}

	probe, err := newAppProbe(d.at.appAddress(app.Port), "", d.session, ca.Value, d.g.now())
	if err != nil {
		return nil, found{}, err
	}

	d.show.begin(stepAnswer, d.g.now())
	seen := d.g.lookAt(ctx, probe)
	deadline := time.Now().Add(d.g.wait)

	for seen.kind == answersSession && !among(instances, seen.instance) {
		// It may also have been started since, in the place of one that ended.
		if again, err := d.compare(ctx, app); err == nil && among(again, seen.instance) {
			instances = again
			break
		}

		if time.Now().After(deadline) {
			return nil, seen, d.otherAnswers(app, probe.address, seen.instance)
		}

		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, seen, err
		}

		seen = d.g.lookAt(ctx, probe)
	}

	if ctx.Err() != nil {
		return nil, seen, ctx.Err()
	}

	if err := d.endedSince(ctx, app, instances); err != nil {
		return nil, seen, err
	}

	seen = probe.ofRunning(seen)
	d.show.finish(stepAnswer, d.g.now())
	return instances, seen, nil
}

func among(instances []manager.Instance, id ident.InstanceID) bool {
	return slices.ContainsFunc(instances, func(i manager.Instance) bool { return i.InstanceID == id })
}

// otherAnswers is the end of a deployment whose instances are attested while users meet
// another one: by their port an operator could have older code go on.
func (d *deployment) otherAnswers(app manager.App, address string, id ident.InstanceID) error {
	return problem.New(problem.Denied, ruleAppInstance, "instance %s answers at %s, which is not of this deployment", id.Short(), address).
		Want("one of the instances that your CAS attested for revision %d of %s", app.Revision, app.Name).
		Fix("what answers may be older code: don't use the app there; ask the operator, and see 'cupel ps %s' and 'cupel verify %s'", app.Name, app.Name)
}

// deployReply is the last line of `deploy -o json`.
type deployReply struct {
	App       manager.App        `json:"app"`
	URL       string             `json:"url,omitempty"`
	Answers   answerKind         `json:"answers,omitempty"` // what answers there, as this command saw it
	Instances []manager.Instance `json:"instances"`
}

// report tells how the deployment ended. An app that users can't tell from an
// impostor, or can't reach, is reported too, and ends the command with its problem.
func (d *deployment) report(app manager.App, instances []manager.Instance, seen found) error {
	ends := seen.problem
	if d.o.plain && seen.kind.unproven() {
		ends = nil
	}

	address := d.at.appAddress(app.Port)
	url := seen.kind.url(address)
	if d.g.json() {
		reply := deployReply{
			App:       app,
			URL:       url,
			Answers:   seen.kind,
			Instances: instances,
		}
		if err := d.g.printLine(reply); err != nil {
			return err
		}
		return ends
	}

	where := "behind " + url
	switch {
	case seen.kind == answersNothing:
		where = "and nothing answers from here at " + address
	case seen.kind.unproven():
		where += " (" + seen.kind.text() + ")"
	}

	d.g.printf("\n%s: %s, attested by your CAS and healthy, %s\n", app.Name, problem.Count(len(instances), "instance"), where)
	if gap := app.Deployment.GapSeconds; gap > 0 {
		d.g.printf("nothing served for %.1f s: the app writes a volume, so its old instance stopped first\n", gap)
	}
	if w := app.Deployment.Warning; w != nil {
		d.g.warnf("warning: %s", wording.Reason(w))
	}

	if err := d.elsewhere(app, seen.kind); err != nil {
		return err
	}

	d.g.printf("\n")
	if err := d.g.printInstances(psReply{Apps: []manager.App{app}, Instances: instances}); err != nil {
		return err
	}

	if len(instances) > 0 && instances[0].Simulated {
		d.g.printf("\nSIMULATION: the instances are attested, but no TEE protects them.\n")
	}

	if ends != nil {
		d.g.printf("\n")
	}
	return ends
}

// elsewhere tells where users on other machines find the app, and whether its
// certificate is for that name.
func (d *deployment) elsewhere(app manager.App, answers answerKind) error {
	host := cmp.Or(d.at.host, d.at.Outside)
	if host == "" {
		return nil
	}

	records, err := d.side.dir.Sessions()
	if err != nil {
		return err
	}

	record, mine := records[d.session]
	names := record.DNS
	if len(names) == 0 {
		names = []string{"localhost"}
	}

	otherName := mine && !answers.unproven() && !certified(names, host)
	address := net.JoinHostPort(host, strconv.Itoa(int(app.Port)))
	switch {
	case !d.at.remote() && otherName:
		d.g.printf("from other machines at %s, by a name that the certificate has; now that is %s (--dns NAME)\n", address, strings.Join(names, ", "))
	case !d.at.remote():
		d.g.printf("from other machines at %s\n", address)
	case otherName:
		d.g.warnf("The app's certificate is for %s, and not for %s: for users who go there, update the session with --dns %s and deploy again.",
			strings.Join(names, ", "), host, host)
	}
	return nil
}

// certified says whether a certificate for these names is one for the host.
func certified(names []string, host string) bool {
	var cert x509.Certificate
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}

	return cert.VerifyHostname(host) == nil
}
