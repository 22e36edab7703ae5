//! `python3 -m http.server` as backend: available everywhere, HTTP/1.0, and a close after every
//! response.

use crate::support::program::{self, Program};
use crate::support::{Client, Lb, config, get, until_some};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

const LARGE: usize = 5_000_000;

/// The three folders of `backend-servers`, copied, each with a server of its own.
struct Servers {
    folder: PathBuf,
    programs: Vec<Program>,
    addresses: Vec<SocketAddr>,
}

impl Servers {
    /// `name` keeps the copies of different tests apart.
    #[track_caller]
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lb-threads-{}-{name}", std::process::id()));
        let mut servers = Self { folder, programs: Vec::new(), addresses: Vec::new() };
        for server in ["server8080", "server8081", "server8082"] {
            let copy = servers.folder.join(server);
            copy_folder(
                &Path::new(env!("CARGO_MANIFEST_DIR")).join("backend-servers").join(server),
                &copy,
            );
            fs::write(copy.join("large.bin"), large()).expect("the copy can be written to");
            let mut command = program::clean("python3");
            command
                .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"])
                .arg(&copy);
            servers.programs.push(Program::start(command));
        }
        let address = |program: &Program| {
            until_some("the python server has printed its address", || {
                let output = program.output();
                output.split_once("(http://")?.1.split_once('/')?.0.parse().ok()
            })
        };
        servers.addresses = servers.programs.iter().map(address).collect();
        servers
    }

    fn balancer(&self) -> Lb {
        let lb = Lb::start(config(&self.addresses));
        lb.wait_for_up(3);
        lb
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.programs.clear();
        // Files left in a temporary folder are no failure.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Bytes that differ wherever they are cut or shifted.
fn large() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(5);
    (0..LARGE).map(|_| rng.u8(..)).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        fs::copy(&path, to.join(path.file_name().expect("a file has a name")))
            .expect("a file can be copied");
    }
}

#[test]
fn python_servers_take_turns_and_every_kind_of_response_is_forwarded() {
    let servers = Servers::start("kinds");
    let lb = servers.balancer();
    let mut client = lb.connect();
    let pages: Vec<String> = (0..3).map(|_| client.get("/").text()).collect();
    for server in ["server8080", "server8081", "server8082"] {
        let page = fs::read_to_string(servers.folder.join(server).join("index.html"))
            .expect("the page can be read");
        assert_eq!(
            pages.iter().filter(|got| **got == page).count(),
            1,
            "{server} gets one request of three"
        );
    }
    let missing = client.get("/no-such-page");
    assert_eq!((missing.status, missing.header("X-LB-Error")), (404, None));
    let head = client.exchange("HEAD /large.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(
        (head.status, head.header("Content-Length"), head.body.len()),
        (200, Some("5000000"), 0)
    );
    assert_eq!(
        client.get("/").status,
        200,
        "the client's connection goes on though the backends close theirs"
    );
    let file = client.get("/large.bin");
    assert!(
        file.body == large() && !file.truncated,
        "{} bytes of 5 MB, byte for byte",
        file.body.len()
    );
}

#[test]
fn twenty_five_clients_at_once_are_served_by_python_servers() {
    const CLIENTS: usize = 25;
    const EACH: usize = 4;

    let servers = Servers::start("crowd");
    let lb = servers.balancer();
    let start = Barrier::new(CLIENTS);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let client = || {
            let mut client = Client::connect(lb.address());
            start.wait();
            (0..EACH).map(|_| client.get("/").status).collect::<Vec<u16>>()
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client does not panic"))
            .collect()
    });
    assert_eq!(statuses, [200; CLIENTS * EACH]);
    assert_eq!(lb.up(), 3);
    assert_eq!(get(lb.address(), "/health").status, 200);
}
