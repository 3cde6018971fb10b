package cli

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/trusted/owner/template"
)

// request turns the flags into what the manager is asked for.
func (o *deployOptions) request() (manager.DeployRequest, error) {
	var req manager.DeployRequest
	session, err := parseSessionArg(o.session)
	if err != nil {
		return req, err
	}

	var memory uint64
	if o.memory != "" || o.memoryGiven {
		if memory, err = manager.ParseMemory(o.memory); err != nil {
			return req, err
		}
	}

	if o.casInstances != "" {
		if err := hostPort("cas-instances", o.casInstances); err != nil {
			return req, err
		}
	}

	public, container, err := parsePorts(o.port)
	if err != nil {
		return req, err
	}

	if o.instances < 1 && o.instancesGiven {
		return req, problem.New(problem.Invalid, problem.RuleInstances, "--instances %d", o.instances).Want("1 or more").
			Fix("to remove an app: cupel rm --app APP")
	}

	service := ident.ServiceName(o.service)
	if o.service != "" {
		if service, err = ident.ParseServiceName(o.service); err != nil {
			return req, problem.New(problem.Invalid, problem.RuleService, "--service: %w", err)
		}
	}

	return manager.DeployRequest{
		Session:       session,
		Name:          o.name,
		Service:       service,
		Runtime:       o.runtime,
		Instances:     o.instances,
		Memory:        memory,
		Port:          public,
		ContainerPort: container,
	}, nil
}

// parsePorts reads PUBLIC[:CONTAINER]; 0 stands for what is left out.
func parsePorts(s string) (public, container uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}

	first, second, both := strings.Cut(s, ":")
	ok := true
	number := func(s string) uint16 {
		n, err := strconv.ParseUint(s, 10, 16)
		ok = ok && err == nil && n > 0
		return uint16(n)
	}

	public = number(first)
	if both {
		container = number(second)
	}

	if ok {
		return public, container, nil
	}

	p := problem.New(problem.Invalid, problem.RulePort, "--port %.40q", s).Want("PUBLIC or PUBLIC:CONTAINER, each from 1 to 65535").
		Fix("for instance --port 8080, or --port 443:8443")

	// An address before the port works with other tools: the answer says what to leave out.
	if host, port, err := net.SplitHostPort(s); err == nil && strings.ContainsAny(host, ".:") {
		ok = true
		if number(port); !ok {
			port = "8080"
		}
		p.Fix("at which of the machine's addresses the app is can't be chosen: give the port alone, as in --port %s", port)
	}
	return 0, 0, p
}

// checkRef refuses a session that pins another ref than is asked for, if one is.
func checkRef(name ident.SessionName, record home.SessionRecord, ref string) error {
	pinned := template.PinnedRef(record.Ref) // an earlier release kept it as it was given
	if ref == "" || pinned == template.PinnedRef(ref) {
		return nil
	}

	return problem.New(problem.Conflict, ruleRef, "session %s pins %s", name, cmp.Or(pinned, "no ref")).Want("%s", ref).
		Fix("what is pulled is the owner's word, in the session: update it with 'cupel session create … --ref %s --update', then deploy again", ref)
}

// connect finds CAS and manager, and refuses what can't work before anything
// is started.
func (d *deployment) connect(ctx context.Context, req *manager.DeployRequest) error {
	records, err := d.side.dir.Sessions()
	if err != nil {
		return err
	}

	record, mine := records[d.session]
	d.recorded = record.Runtime
	if req.Runtime == "" {
		req.Runtime = record.Runtime
	}

	if d.o.ref != "" && !mine {
		return problem.New(problem.Conflict, ruleRef, "session %s was not created from here: what it pins is not known", d.session).
			Fix("leave --ref out; who created the session checks it")
	}
	if err := checkRef(d.session, record, d.o.ref); err != nil {
		return err
	}

	identity, err := d.findCAS(ctx)
	if err != nil {
		return err
	}

	if d.at, err = d.g.manager(ctx); err != nil {
		return err
	}

	if d.at.CAS.Identity != identity {
		if d.o.casInstances == "" {
			return problem.New(problem.Conflict, problem.RuleCASOther, "session %s is at another CAS than this manager's own", d.session).
				Want("identity %s", d.at.CAS.Identity).Fix("say where instances reach it with --cas-instances HOST:PORT")
		}
		req.CAS = &manager.CASRef{Instances: d.o.casInstances, Identity: identity}
	}

	d.manager = d.at.dial(&d.side.id.Certificate)
	return d.knowRuntime(ctx, req)
}

// knowRuntime finds out which runtime is meant where neither the command nor the
// owner's records say it: the one that the app has.
func (d *deployment) knowRuntime(ctx context.Context, req *manager.DeployRequest) error {
	if req.Runtime != "" {
		return nil
	}

	apps, err := d.manager.Apps(ctx)
	if err != nil {
		return err
	}

	for _, a := range apps {
		if a.Owner == d.side.id.KeyHash && a.Session == d.session && (req.Name == "" || req.Name == a.Name) {
			req.Runtime = a.Runtime
		}
	}

	if req.Runtime == "" {
		return problem.New(problem.Invalid, problem.RuleRuntime, "session %s was not created from here, and no app of yours runs it: its runtime is not known", d.session).
			Fix("give --runtime; if the session was removed, remove its apps: cupel rm --app APP")
	}
	return nil
}

// findCAS connects to the session's CAS and notes what it lists before the
// deployment begins. Who hands in somebody else's code need not know that CAS, nor
// may see the session: then there is none to ask, and the code says whose it is.
func (d *deployment) findCAS(ctx context.Context) (ident.KeyHash, error) {
	addr, err := d.side.casAddress(d.session, d.o.cas)
	if err != nil {
		return ident.KeyHash{}, err
	}

	var pin home.Pin
	if d.casAt, pin, err = d.side.pinned(addr); err == nil {
		d.cas, err = d.side.dial(ctx, d.casAt, &pin)
	}
	if err == nil {
		err = d.lookBefore(ctx)
	}

	// Who may have the session run and not read it goes on without what the CAS knows.
	if err != nil && d.code == nil && problem.From(err).Rule == problem.RuleAccessPolicy {
		d.blind = true
		err = nil
	}
	if err == nil {
		return pin.Identity, nil
	}

	refused := []problem.Kind{problem.Denied, problem.NotFound, problem.Unauthenticated}
	if d.code == nil || !slices.Contains(refused, problem.KindOf(err)) {
		return ident.KeyHash{}, err
	}

	if d.cas != nil {
		d.cas.Close()
		d.cas = nil
	}

	return d.code.CAS, nil
}

func (d *deployment) lookBefore(ctx context.Context) error {
	known, err := d.cas.Instances(ctx, d.session)
	if err != nil {
		return err
	}

	d.before = map[ident.InstanceID]bool{}
	for _, k := range known {
		d.before[k.ID] = true
	}
	return nil
}
