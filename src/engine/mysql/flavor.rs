//! Which of the two families a server belongs to.

use std::fmt;

/// MySQL (with Percona Server) or MariaDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MySQL and what is built from its sources.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl Flavor {
    /// Decides by the server's version text, never by its number: MySQL's numbers have
    /// passed MariaDB's (26.x), and MariaDB pretends to be 5.5.5 to old replicas.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        if version.to_ascii_lowercase().contains("-mariadb") { Self::MariaDb } else { Self::MySql }
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_text_tells_the_family_and_its_number_does_not() {
        for (version, flavor) in [
            ("9.7.4-2", Flavor::MySql),
            ("8.0.36-28", Flavor::MySql),
            ("26.10.0", Flavor::MySql),
            ("5.5.5-10.11.19-MariaDB-0+deb12u1-log", Flavor::MariaDb),
            ("11.8.6-MariaDB-0+deb13u1", Flavor::MariaDb),
            ("10.6.20-14-mariadb-enterprise", Flavor::MariaDb),
            ("", Flavor::MySql),
        ] {
            assert_eq!(Flavor::of_version(version), flavor, "{version}");
        }
    }

    #[test]
    fn flavors_are_shown_as_their_makers_write_them() {
        assert_eq!(format!("{} {}", Flavor::MySql, Flavor::MariaDb), "MySQL MariaDB");
    }
}
