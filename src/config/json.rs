//! A configuration as the JSON text of a file. Pure.

use super::Config;
use super::backend::BackendSpec;
use super::table::{Form, ON, Setting};
use serde_json::{Value, json};

/// The whole configuration as a file that `-c` takes. Unset values have no key.
pub fn to_json(config: &Config) -> String {
    let rows: Vec<String> = Setting::all().filter_map(|setting| row(&setting, config)).collect();
    format!("{{\n{}\n}}\n", rows.join(",\n"))
}

fn row(setting: &Setting, config: &Config) -> Option<String> {
    if setting.is_backends() {
        let servers: Vec<String> =
            config.backends.iter().map(|one| format!("    {}", server(one))).collect();
        let list = if servers.is_empty() {
            String::new()
        } else {
            format!("\n{}\n  ", servers.join(",\n"))
        };
        return Some(format!("  \"servers\": [{list}]"));
    }
    Some(format!("  {}: {}", json!(setting.key()), value(setting, &setting.show(config)?)))
}

fn server(backend: &BackendSpec) -> String {
    let weight = if backend.weight == 1 {
        String::new()
    } else {
        format!(", \"weight\": {}", backend.weight)
    };
    let (host, port) = (json!(backend.authority.host()), backend.authority.port());
    format!("{{\"host\": {host}, \"port\": {port}{weight}}}")
}

/// A value's text as JSON.
pub fn value(setting: &Setting, text: &str) -> Value {
    match setting.form {
        Form::Switch => json!(text == ON),
        Form::List(_) => text.split(',').map(str::trim).collect(),
        _ => match text.parse::<u64>() {
            // Not a name like 007.
            Ok(number) if number.to_string() == text => json!(number),
            _ => json!(text),
        },
    }
}
