//! The flags of the control API. The token comes from a file or from the environment: in the command
//! line, other users of the machine could read it.

use super::UsageError;
use crate::config::{AdminPort, ControlBoot, DataPortControl, Token};
use crate::net;
use clap::{Args, ValueEnum};
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The environment variable with the token.
const TOKEN_VARIABLE: &str = "LB_ADMIN_TOKEN";
/// More than any token has, in bytes.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;
/// The permission of all other users to read a file.
const READABLE_BY_OTHERS: u32 = 0o004;

/// The flags of the control API.
#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// Address of the control API and the health pages, HOST:PORT, or off [default: 127.0.0.1:9190]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// File with the token that requests to the control API must have; or set LB_ADMIN_TOKEN
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Serve /_control/ and /lb/stats on the data port too: read (GET only, any client), or all
    #[arg(
        long,
        value_name = "REQUESTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    control_on_data_port: Option<Requests>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Requests {
    Read,
    All,
}

impl ControlArgs {
    /// The ways to the control API. Resolves a name and reads the token's file, so it may wait.
    pub(super) fn into_boot(self) -> Result<ControlBoot, UsageError> {
        let on_data_port = self.control_on_data_port.map(|requests| match requests {
            Requests::Read => DataPortControl::Read,
            Requests::All => DataPortControl::All,
        });
        let admin = self.admin.as_deref().map_or(Ok(Some(AdminPort::optional())), admin_port)?;
        let token = match &self.admin_token_file {
            Some(file) => Some(read_token(file).map_err(UsageError::bad)?),
            None => token_of_environment()?,
        };
        Ok(ControlBoot { admin, on_data_port, token })
    }
}

fn admin_port(text: &str) -> Result<Option<AdminPort>, UsageError> {
    if text.trim().eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let parts = text.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let (host, port) =
        parts.and_then(|(host, port)| Some((host, port.parse().ok()?))).ok_or_else(|| {
            UsageError::bad(format!(
                "--admin: `{text}` is not HOST:PORT; write it like 127.0.0.1:9190, or off"
            ))
        })?;
    let addresses = net::resolve(host, port)
        .map_err(|error| UsageError::unresolved("--admin", host, &error))?;
    let is_name = host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
    let host = is_name.then(|| host.to_owned());
    Ok(Some(AdminPort { addresses, host, is_optional: false }))
}

fn token_of_environment() -> Result<Option<Token>, UsageError> {
    let Some(text) = std::env::var_os(TOKEN_VARIABLE) else { return Ok(None) };
    let token = Token::parse(&text.to_string_lossy());
    token.map(Some).map_err(|error| UsageError::bad(format!("{TOKEN_VARIABLE} {error}")))
}

/// The token in a file. The error has the fix, but no part of the token.
fn read_token(path: &Path) -> Result<Token, String> {
    let name = path.display();
    let unreadable = |error| format!("--admin-token-file: cannot read {name}: {error}");
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & READABLE_BY_OTHERS != 0 {
        log::warn!("other users can read the token in {name}: chmod 600 {name}");
    }
    Token::parse(&text).map_err(|error| format!("--admin-token-file: {name} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(admin: Option<&str>) -> Result<ControlBoot, UsageError> {
        let admin = admin.map(str::to_owned);
        ControlArgs { admin, admin_token_file: None, control_on_data_port: None }.into_boot()
    }

    #[test]
    fn the_admin_port_is_optional_unless_it_is_asked_for() {
        let admin = boot(None).unwrap().admin.unwrap();
        assert_eq!(
            (admin.addresses[0].to_string().as_str(), admin.is_optional),
            ("127.0.0.1:9190", true)
        );
        let asked = boot(Some("127.0.0.1:9190")).unwrap().admin.unwrap();
        assert_eq!((asked.addresses, asked.is_optional), (admin.addresses, false));
        assert!(boot(Some("OFF")).unwrap().admin.is_none());
        let named = boot(Some("localhost:0")).unwrap().admin.unwrap();
        assert_eq!(named.host.as_deref(), Some("localhost"));
        let literal = boot(Some("[::1]:9190")).unwrap().admin.unwrap();
        assert_eq!(
            (literal.host, literal.addresses[0].to_string()),
            (None, "[::1]:9190".to_owned())
        );
        for bad in ["", ":9190", "localhost", "9190", "localhost:x", "h:-1"] {
            assert!(boot(Some(bad)).unwrap_err().message.contains("HOST:PORT"), "{bad}");
        }
    }
}
