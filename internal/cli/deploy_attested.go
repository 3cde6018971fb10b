package cli

import (
	"cmp"
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/template"
)

// attested compares the manager's instances with what the CAS, asked with the
// owner's key, says: each of them attested for this service, running, and no
// two the same. They may disagree for a while (--wait), as an instance may have
// been restarted in between.
func (d *deployment) attested(ctx context.Context, app manager.App) ([]manager.Instance, error) {
	d.show.begin(stepVerify, d.g.now())
	deadline := time.Now().Add(d.g.wait)

	for {
		instances, err := d.compare(ctx, app)
		if err == nil {
			d.show.finish(stepVerify, d.g.now())
			return instances, nil
		}

		if problem.From(err).Rule == client.RuleAway && d.patient(ctx) {
			deadline = time.Now().Add(d.g.wait) // it restarts, and has to look around first
			continue
		}

		if !slices.Contains(mayChange, problem.From(err).Rule) || time.Now().After(deadline) {
			return nil, err
		}

		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mayChange are the rules of refusals by attested that may no longer hold a moment later.
var mayChange = []problem.Rule{ruleInstanceNotAttested, rulePullNotAttested}

// compare does once what attested repeats.
func (d *deployment) compare(ctx context.Context, app manager.App) ([]manager.Instance, error) {
	list, err := d.manager.Instances(ctx, ident.AppRef(app.ID))
	if err != nil {
		return nil, err
	}

	known, err := d.cas.Instances(ctx, d.session)
	if err != nil {
		return nil, err
	}

	pulled, err := d.pulled(known)
	if err != nil {
		return nil, err
	}

	// What the CAS knows to run for this deployment.
	service := cmp.Or(d.asked.Service, app.Service)
	running := map[ident.InstanceID]bool{}
	for _, k := range known {
		if k.State == owners.Running && k.Service == service && k.Grant == d.grantID && startedFrom(k, pulled) {
			running[k.ID] = true
		}
	}

	// Each instance that the manager counts as healthy has to be among that.
	var out []manager.Instance
	for _, i := range list {
		if i.Role != manager.RoleApp || i.Revision != app.Revision || i.State != manager.InstanceRunning || i.Health != manager.Healthy {
			continue
		}

		if !running[i.InstanceID] {
			return nil, problem.New(problem.Denied, ruleInstanceNotAttested, "the CAS does not list instance %s (%s) as attested and running", i.ID, i.InstanceID.Short()).
				Want("every instance of %s", app.Name).Fix("the manager says so and the CAS does not: don't use the app; ask the operator, and see 'cupel verify %s'", app.Name)
		}

		delete(running, i.InstanceID) // each counts once
		out = append(out, i)
	}

	// A number that was asked for isn't believed to be a smaller one.
	if want := max(app.Instances, d.asked.Instances, 1); len(out) < want {
		have := problem.Count(len(out), "instance") + " are"
		if len(out) == 1 {
			have = "1 instance is"
		}
		return nil, problem.New(problem.Denied, ruleInstanceNotAttested, "%s healthy and attested", have).
			Want("%d", want).Fix("see 'cupel ps %s' and 'cupel events %s'", app.Name, app.Name)
	}

	return out, nil
}

// pulled returns the attested pull of this deployment. Without one, a manager
// could leave what an earlier deployment pulled and say that it is the newest.
func (d *deployment) pulled(known []owners.Instance) (owners.Instance, error) {
	for _, k := range slices.Backward(known) {
		if k.Service == template.PullService && !d.before[k.ID] && k.Grant == d.grantID && k.State == owners.Exited && k.ExitCode != nil && *k.ExitCode == 0 {
			return k, nil
		}
	}

	return owners.Instance{}, problem.New(problem.Denied, rulePullNotAttested, "the CAS saw no pull of session %s end well since this deployment began", d.session).
		Want("an attested instance of %s that ended with 0", template.PullService).
		Fix("the manager says so and the CAS does not: what runs may be older code; deploy again, and ask the operator")
}

// startedFrom reports whether an instance's volumes have what a pull stored.
func startedFrom(k, pulled owners.Instance) bool {
	return !slices.ContainsFunc(pulled.Volumes, func(p owners.InstanceVolume) bool {
		return slices.ContainsFunc(k.Volumes, func(v owners.InstanceVolume) bool { return v.Name == p.Name && v.Generation < p.Generation })
	})
}
