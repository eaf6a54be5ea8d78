//! What images are made of, and what they want: all of it must come to life in a sandbox.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::Server;
use crate::harness::oci::{Image, need_busybox};
use crate::harness::server::finish;

#[track_caller]
fn load(server: &Server, image: &Image, name: &str) {
    let archive = image.archive();
    server
        .cli(&["image", "load", archive.to_str().unwrap(), name])
        .ok();
}

/// Loads an image and makes a sandbox from it.
#[track_caller]
fn spawned(server: &Server, image: &Image, name: &str, more: Value) -> String {
    load(server, image, name);
    let mut request = more;
    request["image"] = name.into();
    server.spawn(request)
}

#[track_caller]
fn stdout(server: &Server, id: &str, command: &str) -> String {
    let answer = server.exec(id, command);
    assert_eq!(answer["exit_code"], 0, "{command}: {answer}");
    answer["stdout"].as_str().unwrap().to_owned()
}

#[test]
fn what_an_image_wants_holds_unless_the_spawn_says_otherwise() {
    let busybox = need_busybox!();
    let server = Server::start();
    let image = Image::with_shell(&busybox)
        .layer(|root| {
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::create_dir_all(root.join("srv/app")).unwrap();
            fs::write(
                root.join("etc/passwd"),
                "root:x:0:0::/root:/bin/sh\nweb:x:33:34:,,,:/srv:/bin/sh\n",
            )
            .unwrap();
            fs::write(
                root.join("etc/group"),
                "root:x:0:\nstaff:x:50:web\nweb:x:34:\n",
            )
            .unwrap();
        })
        .set("User", json!("web:staff"))
        .set("WorkingDir", json!("/srv/app"))
        .set(
            "Env",
            json!(["COLOUR=green", "SHAPE=round", "PATH=/bin:/srv/app"]),
        );
    let id = spawned(
        &server,
        &image,
        "wants",
        json!({"env": {"SHAPE": "square"}}),
    );
    assert_eq!(
        stdout(&server, &id, "id -u; id -g; pwd; echo $COLOUR $SHAPE $PATH"),
        "33\n50\n/srv/app\ngreen square /bin:/srv/app\n"
    );
    // The workspace is still the sandbox's own, and the API's relative paths begin there.
    server
        .request(
            "POST",
            &format!("/sandboxes/{id}/files"),
            Some(json!({"path": "here.txt", "content": "x"})),
        )
        .expect(200);
    assert_eq!(
        stdout(&server, &id, "stat -c %u /workspace/here.txt"),
        "33\n"
    );
    let exec = json!({"command": "pwd; echo $COLOUR", "workdir": "/tmp", "env": {"COLOUR": "red"}});
    assert_eq!(
        server.exec_with(&id, exec).expect(200)["stdout"],
        "/tmp\nred\n"
    );

    let id = spawned(
        &server,
        &image,
        "wants",
        json!({"user": "root", "workdir": "/etc"}),
    );
    assert_eq!(stdout(&server, &id, "id -u; pwd"), "0\n/etc\n");

    // A directory that is nowhere is made where the user may make it; else it is the workspace.
    let made = Image::with_shell(&busybox).set("WorkingDir", json!("/app/deep"));
    let id = spawned(&server, &made, "made", json!({}));
    assert_eq!(
        stdout(&server, &id, "pwd; id -u; touch file; ls"),
        "/app/deep\n1000\nfile\n"
    );
    let closed = Image::with_shell(&busybox).set("WorkingDir", json!("/etc/closed"));
    let id = spawned(&server, &closed, "closed", json!({}));
    assert_eq!(stdout(&server, &id, "pwd"), "/workspace\n");

    let nobody = Image::with_shell(&busybox).set("User", json!("nobody-knows"));
    load(&server, &nobody, "nobody");
    let refused = server.request("POST", "/sandboxes", Some(json!({"image": "nobody"})));
    let refused = refused.expect(400);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("nobody-knows"),
        "{refused}"
    );
    server.spawn(json!({"image": "nobody", "user": "1000"}));
}

#[test]
fn a_run_without_a_command_starts_what_the_image_starts() {
    let busybox = need_busybox!();
    let server = Server::start();
    let image = Image::with_shell(&busybox)
        .set("Entrypoint", json!(["/bin/echo", "started", "with"]))
        .set("Cmd", json!(["its own words"]));
    load(&server, &image, "starts");
    load(&server, &Image::with_shell(&busybox), "idle");

    let run = |words: &[&str]| {
        let mut command = server.command(&["run", "--image"]);
        let data = server.data_dir();
        finish(command.args(words).env("STACYVM_SERVER_DATA_DIR", data))
    };
    assert_eq!(run(&["starts"]).ok(), "started with its own words\n");
    assert_eq!(run(&["starts", "--", "echo", "other"]).ok(), "other\n");
    for idle in ["idle", "host"] {
        let finished = run(&[idle]);
        assert_eq!(finished.code, Some(125), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("no command"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn an_image_of_one_program_is_enough() {
    let busybox = need_busybox!();
    let server = Server::start();
    let image = Image::empty().layer(|root| {
        fs::copy(&busybox, root.join("busybox")).unwrap();
    });
    let id = spawned(&server, &image, "bare", json!({}));
    let run = |request: Value| server.exec_with(&id, request).expect(200);
    let answer = run(json!({"mode": "argv", "command": "/busybox", "args": ["echo", "alone"]}));
    assert_eq!(answer["stdout"], "alone\n", "{answer}");
    let answer = run(json!({"mode": "argv", "command": "/busybox", "args": ["id", "-u"]}));
    assert_eq!(answer["stdout"], "1000\n", "{answer}");
    let answer = run(json!({"command": "echo x"}));
    assert_eq!(answer["exit_code"], 127, "{answer}");
    assert!(
        answer["stderr"].as_str().unwrap().contains("sh"),
        "{answer}"
    );
    let files = format!("/sandboxes/{id}/files");
    server
        .request(
            "POST",
            &files,
            Some(json!({"path": "a/b", "content": "inside"})),
        )
        .expect(200);
    let read = server.request("GET", &format!("{files}?path=/workspace/a/b"), None);
    assert_eq!((read.status, read.text().as_str()), (200, "inside"));
}

#[test]
fn sixty_layers_are_one_root() {
    let busybox = need_busybox!();
    let server = Server::start();
    let mut image = Image::with_shell(&busybox);
    for number in 1..60 {
        image = image.layer(|root| {
            fs::create_dir(root.join("layers")).unwrap();
            fs::write(root.join(format!("layers/{number}")), number.to_string()).unwrap();
            fs::write(root.join("top"), number.to_string()).unwrap();
        });
    }
    let id = spawned(&server, &image, "tall", json!({}));
    assert_eq!(
        stdout(&server, &id, "cat /top; ls /layers | wc -l"),
        "5959\n"
    );
    assert_eq!(stdout(&server, &id, "cat /layers/1 /layers/59"), "159");
}

#[test]
fn what_upper_layers_took_away_is_gone() {
    let busybox = need_busybox!();
    let server = Server::start();
    let write = |root: &Path, path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let image = Image::with_shell(&busybox)
        .layer(|root| {
            for path in [
                "gone/file",
                "kept/a",
                "kept/b",
                "emptied/old",
                "turned/x",
                "flat",
            ] {
                write(root, path, "lower");
            }
        })
        .layer(|root| {
            write(root, ".wh.gone", "");
            write(root, "kept/.wh.a", "");
            write(root, "emptied/.wh..wh..opq", "");
            write(root, "emptied/new", "upper");
            write(root, "turned", "a file now");
            write(root, "flat/inside", "a directory now");
        })
        .layer(|root| write(root, "kept/c", "back on top"));
    let id = spawned(&server, &image, "marks", json!({"user": "root"}));
    assert_eq!(
        stdout(
            &server,
            &id,
            "ls -d /gone 2>/dev/null; cd /; ls kept emptied; cat turned flat/inside; echo; find / -xdev -name '.wh.*'"
        ),
        "emptied:\nnew\n\nkept:\nb\nc\na file nowa directory now\n"
    );
    // A sandbox takes away what is the image's, and only for itself.
    let command = "rm -rf /kept/b /emptied && ls /kept && ls -d /emptied 2>/dev/null; echo";
    let root = json!({"command": command, "user": "root"});
    assert_eq!(server.exec_with(&id, root).expect(200)["stdout"], "c\n\n");
    let other = server.spawn(json!({"image": "marks"}));
    assert_eq!(stdout(&server, &other, "ls /kept"), "b\nc\n");
}

#[test]
fn links_modes_and_attributes_arrive() {
    let busybox = need_busybox!();
    let server = Server::start();
    let mut with_attribute = false;
    let image = Image::with_shell(&busybox).layer(|root| {
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/one"), "shared").unwrap();
        fs::hard_link(root.join("data/one"), root.join("data/two")).unwrap();
        fs::set_permissions(root.join("data/one"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("/data/one", root.join("data/link")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(root.join("data/one"), "user.colour", b"green", flags);
        with_attribute = set.is_ok();
    });
    let id = spawned(&server, &image, "links", json!({"user": "root"}));
    assert_eq!(
        stdout(
            &server,
            &id,
            "cd /data; stat -c '%h %a %u' one two; cat link; test one -ef two; readlink link"
        ),
        "2 750 0\n2 750 0\nshared/data/one\n"
    );
    if with_attribute {
        let layers = server.data_dir().join("native/images");
        let kept = find(&layers, "one").expect("the file is in the store");
        assert_eq!(fs::metadata(&kept).unwrap().nlink(), 2);
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&kept, "user.colour", &mut value).unwrap();
        assert_eq!(&value[..length], b"green");
    }
}

/// A file of this name anywhere below.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}
