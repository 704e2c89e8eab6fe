//go:build unix

package pgserver

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user the server's programs run as.
type account struct {
	name       string
	credential *syscall.Credential // nil: our own
}

// unprivileged returns our own account, or when that is root one the server
// accepts.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return &account{name: strconv.Itoa(os.Geteuid())}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("find an unprivileged user: %w", err)
	}
	return accountOf(u)
}

func accountOf(u *user.User) (*account, error) {
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("list groups of user %s: %w", u.Username, err)
	}
	ids, err := parseIDs(append([]string{u.Uid, u.Gid}, groups...))
	if err != nil {
		return nil, fmt.Errorf("read ids of user %s: %w", u.Username, err)
	}
	return &account{
		name:       u.Username,
		credential: &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]},
	}, nil
}

func parseIDs(texts []string) ([]uint32, error) {
	ids := make([]uint32, 0, len(texts))
	for _, text := range texts {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

// own gives path to the account.
func (a *account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// apply makes cmd run as the account, in a process group of its own so that an
// interrupt typed at the terminal ends us and not the server under us.
func (a *account) apply(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential, Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
}
