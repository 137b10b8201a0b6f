//! Users and groups by name, from a root file system's own `/etc/passwd` and `/etc/group`; nothing of the machine's.

use std::str::FromStr;

/// Largest `/etc/passwd` or `/etc/group` that is read; an image must not fill the memory with one.
pub(super) const LIMIT: u64 = 10 << 20;

/// The user and group databases of a root file system; empty where a file is absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a process runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Account {
    /// User id.
    pub(super) uid: u32,
    /// Primary group id.
    pub(super) gid: u32,
    /// Supplementary group ids, in the order of the file.
    pub(super) groups: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub(super) home: String,
}

/// A name that the root file system does not know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum AccountError {
    /// There is no such user.
    #[error("there is no user `{0}` in /etc/passwd of the image")]
    User(String),
    /// There is no such group.
    #[error("there is no group `{0}` in /etc/group of the image")]
    Group(String),
}

impl Accounts {
    /// Reads the two files' bytes; lines that are none are passed over, as every libc does.
    pub(super) fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let users = lines(passwd).filter_map(|fields| {
            let [name, _, uid, gid, _, home, ..] = &fields[..] else { return None };
            Some(User { name: name.clone(), uid: number(uid)?, gid: number(gid)?, home: home.clone() })
        });
        let groups = lines(group).filter_map(|fields| {
            let [name, _, gid, rest @ ..] = &fields[..] else { return None };
            let members = rest.first().into_iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
            Some(Group { name: name.clone(), gid: number(gid)?, members: members.map(str::to_owned).collect() })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// Returns who `USER <text>` means: `name`, `uid`, `name:group`, `uid:gid` and mixtures; empty means root.
    ///
    /// A number need not be known. Supplementary groups come only with a known user and no group in `text`.
    ///
    /// # Errors
    /// For a name that is not known.
    pub(super) fn account(&self, text: &str) -> Result<Account, AccountError> {
        let (user, group) = divide(text);
        let user = if user.is_empty() { "0" } else { user };
        let known = self.user(user);
        let uid = match (known, number(user)) {
            (Some(known), _) => known.uid,
            (None, Some(uid)) => uid,
            (None, None) => return Err(AccountError::User(user.to_owned())),
        };
        let gid = match group {
            Some(group) => self.group(group)?,
            None => known.map_or(0, |known| known.gid),
        };
        let groups = match (known, group) {
            (Some(known), None) => {
                self.groups.iter().filter(|group| group.members.contains(&known.name)).map(|group| group.gid).collect()
            }
            _ => Vec::new(),
        };
        let home = self.users.iter().find(|entry| entry.uid == uid).map_or("/", |entry| &entry.home);
        Ok(Account { uid, gid, groups, home: if home.is_empty() { "/" } else { home }.to_owned() })
    }

    /// Returns the ids that `--chown=<text>` means: a user's group is its own from the file, a bare number is also the
    /// group (`7` is `7:7`).
    ///
    /// # Errors
    /// For a name that is not known; BuildKit takes root in its place, silently.
    pub(super) fn owner(&self, text: &str) -> Result<(u32, u32), AccountError> {
        let (user, group) = divide(text);
        let (uid, own) = match number(user) {
            Some(uid) => (uid, uid),
            None if user.is_empty() => (0, 0),
            None => self.user(user).map(|user| (user.uid, user.gid)).ok_or_else(|| AccountError::User(user.to_owned()))?,
        };
        Ok((uid, group.map_or(Ok(own), |group| self.group(group))?))
    }

    /// Finds by name first: a user may be called `7`.
    fn user(&self, text: &str) -> Option<&User> {
        let id = number(text);
        self.users.iter().find(|user| user.name == text).or_else(|| self.users.iter().find(|user| Some(user.uid) == id))
    }

    fn group(&self, text: &str) -> Result<u32, AccountError> {
        let named = self.groups.iter().find(|group| group.name == text).map(|group| group.gid);
        named.or_else(|| number(text)).ok_or_else(|| AccountError::Group(text.to_owned()))
    }
}

/// Returns whether an owner or user can be resolved without the files.
pub(super) fn is_numeric(text: &str) -> bool {
    let (user, group) = divide(text);
    (user.is_empty() || number(user).is_some()) && group.is_none_or(|group| number(group).is_some())
}

fn divide(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| u32::from_str(text).ok()).flatten()
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Vec<String>> {
    bytes
        .split(|b| *b == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse(
            b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken:x\nwww:x:33:34:web:/var/www:/bin/false\n7:x:70:71::/seven:\nnohome:x:80:80:::\n",
            b"root:x:0:\nadm:x:4:root,www\nwheel:x:10:root\nweb:x:34:\nempty:x:9\n",
        )
    }

    fn account(uid: u32, gid: u32, groups: &[u32], home: &str) -> Account {
        Account { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn a_user_is_a_name_or_a_number_with_or_without_a_group() {
        let accounts = accounts();
        for (text, expected) in [
            ("", account(0, 0, &[4, 10], "/root")),
            ("root", account(0, 0, &[4, 10], "/root")),
            ("0", account(0, 0, &[4, 10], "/root")),
            ("0:0", account(0, 0, &[], "/root")),
            ("www", account(33, 34, &[4], "/var/www")),
            ("33", account(33, 34, &[4], "/var/www")),
            ("www:adm", account(33, 4, &[], "/var/www")),
            ("www:", account(33, 34, &[4], "/var/www")),
            ("1000", account(1000, 0, &[], "/")),
            ("1000:web", account(1000, 34, &[], "/")),
            ("1000:77", account(1000, 77, &[], "/")),
            ("7", account(70, 71, &[], "/seven")),
            ("nohome", account(80, 80, &[], "/")),
        ] {
            assert_eq!(accounts.account(text), Ok(expected), "{text:?}");
        }
        assert_eq!(accounts.account("nobody"), Err(AccountError::User("nobody".to_owned())));
        assert_eq!(accounts.account("www:nogroup"), Err(AccountError::Group("nogroup".to_owned())));
        assert_eq!(Accounts::default().account(""), Ok(account(0, 0, &[], "/")));
    }

    #[test]
    fn an_owner_that_is_a_bare_number_is_also_its_group() {
        let accounts = accounts();
        for (text, expected) in
            [("7", (7, 7)), ("33", (33, 33)), ("www", (33, 34)), ("www:4", (33, 4)), ("1:adm", (1, 4)), (":web", (0, 34))]
        {
            assert_eq!(accounts.owner(text), Ok(expected), "{text:?}");
        }
        assert_eq!(accounts.owner("nobody"), Err(AccountError::User("nobody".to_owned())));
        assert_eq!(accounts.owner("0:nogroup"), Err(AccountError::Group("nogroup".to_owned())));
    }
}
