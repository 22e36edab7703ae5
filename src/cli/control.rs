//! The ways to the control API, as the configuration names them. The token comes from a file or from
//! the environment: in the command line, other users of the machine could read it.

use super::UsageError;
use crate::config::{Admin, AdminPort, Boot, Token};
use crate::net;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The environment variable with the token.
pub(super) const TOKEN_VARIABLE: &str = "LB_ADMIN_TOKEN";
/// More than any token has, in bytes.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;
/// The permission of all other users to read a file.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Resolves the address of the control API and reads the token, so it may wait.
pub(super) fn resolve_control(boot: &mut Boot) -> Result<(), UsageError> {
    boot.control.admin = match &boot.admin {
        Admin::Default => Some(AdminPort::optional()),
        Admin::Off => None,
        Admin::At { host, port } => {
            let addresses = net::resolve(host, *port)
                .map_err(|error| UsageError::unresolved("--admin", host, &error))?;
            let is_name = host.parse::<IpAddr>().is_err();
            let host = is_name.then(|| host.clone());
            Some(AdminPort { addresses, host, is_optional: false })
        }
    };
    boot.control.token = match &boot.admin_token_file {
        Some(file) => Some(read_token(Path::new(file)).map_err(UsageError::bad)?),
        None => token_of_environment()?,
    };
    Ok(())
}

fn token_of_environment() -> Result<Option<Token>, UsageError> {
    let Some(text) = std::env::var_os(TOKEN_VARIABLE) else { return Ok(None) };
    let token = Token::parse(&text.to_string_lossy());
    token.map(Some).map_err(|error| UsageError::bad(format!("{TOKEN_VARIABLE} {error}")))
}

/// The token in a file. The error has the fix, but no part of the token.
pub(super) fn read_token(path: &Path) -> Result<Token, String> {
    let name = path.display();
    let unreadable = |error| format!("--admin-token-file: cannot read {name}: {error}");
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & READABLE_BY_OTHERS != 0 {
        log::warn!(event = "start"; "other users can read the token in {name}: chmod 600 {name}");
    }
    Token::parse(&text).map_err(|error| format!("--admin-token-file: {name} {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(text: Option<&str>) -> Option<AdminPort> {
        let admin = text.map_or(Ok(Admin::Default), Admin::parse).unwrap();
        let mut boot = Boot { admin, ..Boot::default() };
        resolve_control(&mut boot).unwrap();
        boot.control.admin
    }

    #[test]
    fn the_admin_port_is_optional_unless_it_is_asked_for() {
        let default = admin(None).unwrap();
        assert_eq!(
            (default.addresses[0].to_string().as_str(), default.is_optional),
            ("127.0.0.1:9190", true)
        );
        let asked = admin(Some("127.0.0.1:9190")).unwrap();
        assert_eq!((asked.addresses, asked.is_optional), (default.addresses, false));
        assert!(admin(Some("OFF")).is_none());
        let named = admin(Some("localhost:0")).unwrap();
        assert_eq!(named.host.as_deref(), Some("localhost"));
        let literal = admin(Some("[::1]:9190")).unwrap();
        assert_eq!(
            (literal.host, literal.addresses[0].to_string()),
            (None, "[::1]:9190".to_owned())
        );
        for bad in ["", ":9190", "localhost", "9190", "localhost:x", "h:-1"] {
            assert!(Admin::parse(bad).unwrap_err().contains("HOST:PORT"), "{bad}");
        }
    }
}
