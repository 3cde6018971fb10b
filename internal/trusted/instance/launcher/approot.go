package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/trusted/wire"
)

// maxFolders bounds what comes with the app's root: names of folders.
const maxFolders = 4 << 20

// appView is how the launcher gets at the app's root while the app runs and after
// it ended. The mounts of that root are the app's alone, so stage 2 hands over a
// descriptor of it: paths below it lead through the app's own mounts, and the
// overlay is told of every change.
//
// Nothing here follows a link. Links that were there before the app ran were
// followed by stage 2, which said where they led.
type appView struct {
	root    int               // O_PATH, the app's /
	folders map[string]string // of each file that was written: where its directory really is
}

// close gives the root back.
func (v *appView) close() { _ = unix.Close(v.root) }

// open opens an absolute path of the app's without following any link.
func (v *appView) open(name string, flags, resolve uint64) (int, error) {
	below := "."
	if name != "/" {
		below = name[1:]
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: resolve | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(v.root, below, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// realFolders says where the directory of each file really is. It is called in
// stage 2, before the app can have changed anything.
func realFolders(files []wire.File) (map[string]string, error) {
	paths := []string{statementPath}
	for _, f := range files {
		paths = append(paths, f.Path)
	}

	out := make(map[string]string, len(paths))
	for _, p := range paths {
		dir, err := filepath.EvalSymlinks(path.Dir(p))
		if err != nil && p != statementPath {
			return nil, fmt.Errorf("find the directory of %s: %w", p, err)
		}
		out[p] = dir
	}
	return out, nil
}

// handView hands the app's root over in stage 2, as the stages after this one see
// it.
func handView(p *plan) error {
	folders, err := realFolders(p.Files)
	if err != nil {
		return err
	}

	b, err := json.Marshal(folders)
	if err != nil {
		return fmt.Errorf("marshal the app's folders: %w", err)
	}

	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the app's root: %w", err)
	}
	defer unix.Close(root)
	defer unix.Close(viewFD)

	sent, err := unix.SendmsgN(viewFD, b, unix.UnixRights(root), nil, unix.MSG_NOSIGNAL)
	for err == nil && sent < len(b) {
		var n int
		n, err = unix.Write(viewFD, b[sent:])
		sent += n
	}
	if err != nil {
		return fmt.Errorf("hand the app's root to the launcher: %w", err)
	}
	return nil
}

// receiveView reads what handView sends, and closes fd; nil: it did not come as a
// whole.
func receiveView(fd int) *appView {
	defer unix.Close(fd)

	root := -1
	var b []byte
	buf := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, got, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}

		if got > 0 && root < 0 {
			root = descriptor(oob[:got])
		}

		if err != nil || n == 0 || len(b)+n > maxFolders {
			break
		}
		b = append(b, buf[:n]...)
	}

	v := &appView{root: root}
	if root < 0 || json.Unmarshal(b, &v.folders) != nil {
		if root >= 0 {
			_ = unix.Close(root)
		}
		return nil
	}
	return v
}

func descriptor(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return -1
	}

	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	return fds[0]
}
