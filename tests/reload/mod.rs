//! A configuration file that changes while the balancer serves: each setting, conflicts with the
//! control API, the ways to ask for a reload, the ways in which files change, and load.

mod conflicts;
mod handover;
mod load;
mod requests;
mod settings;
mod watching;

use crate::support::program::{self, Program};
use crate::support::{Folder, Lb, Origin, get, with_admin};
use lb_threads::config::Effects;
use lb_threads::config_file::Sources;
use lb_threads::server::{ReloadSource, StartOptions};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// The text of a file with these servers and these further keys; its port is free.
fn text(servers: &[(&Origin, u32)], more: &str) -> String {
    let servers = servers.iter().map(|(origin, weight)| {
        let address = origin.address();
        json!({ "host": address.ip(), "port": address.port(), "weight": weight })
    });
    let servers = servers.collect::<serde_json::Value>();
    format!("{{\n\"port\": 0, \"health_check_interval\": 1,\n\"servers\": {servers}{more}\n}}\n")
}

/// A file with servers of weight 1.
fn plain(servers: &[&Origin], more: &str) -> String {
    text(&servers.iter().map(|origin| (*origin, 1)).collect::<Vec<_>>(), more)
}

/// A balancer in this process with a file that is reloaded on request alone: the next look at it is
/// due in an hour.
struct Configured {
    lb: Lb,
    folder: Folder,
}

impl Configured {
    #[track_caller]
    fn start(text: &str) -> Self {
        let folder = Folder::new();
        let path = PathBuf::from(folder.write("config.json", text));
        let sources = Sources { given: vec![], path: Some(path), notes: vec![], inherited: vec![] };
        let loaded = sources.load().expect("the file is valid");
        let mut config = loaded.config.clone();
        with_admin(&mut config);
        config.boot.workers = 1;
        let reload = Some(ReloadSource { sources, loaded, look_interval: HOUR });
        Self { lb: Lb::start_with(config, StartOptions { reload, ..Default::default() }), folder }
    }

    /// Writes the file and reloads it; the effects.
    #[track_caller]
    fn reload(&self, text: &str) -> Effects {
        self.folder.write("config.json", text);
        self.lb.balancer().reload().expect("the file is valid")
    }

    /// The bodies of so many responses, sorted.
    #[track_caller]
    fn bodies(&self, count: usize) -> Vec<String> {
        let mut bodies: Vec<String> =
            (0..count).map(|_| get(self.lb.address(), "/").text()).collect();
        bodies.sort_unstable();
        bodies
    }
}

/// The real program with a file.
struct Watching {
    program: Program,
    folder: Folder,
    file: String,
}

impl Watching {
    #[track_caller]
    fn start(text: &str, words: &[&str]) -> Self {
        let folder = Folder::new();
        let file = folder.write("config.json", text);
        let words = [&["-c", &file], words].concat();
        let program = Program::start(program::command(words));
        program.until_logged("listening on");
        Self { program, folder, file }
    }

    /// How often its log has this.
    fn count(&self, text: &str) -> usize {
        self.program.log().matches(text).count()
    }
}
