//! Exact shapes, orders and defaults of the file routes: contract section 5.

use serde_json::{Value, json};

use crate::http::{Answer, get, post, send};
use crate::mock::Mocked;

/// The files of one sandbox.
pub(crate) struct Files {
    pub(crate) server: Mocked,
    pub(crate) id: String,
    pub(crate) base: String,
}

impl Files {
    pub(crate) async fn new() -> Self {
        let server = Mocked::start().await;
        let id = server.spawn().await;
        let base = format!("/api/v1/sandboxes/{id}/files");
        Self { server, id, base }
    }

    pub(crate) async fn get(&self, rest: &str) -> Answer {
        get(self.server.address, &format!("{}{rest}", self.base)).await
    }

    pub(crate) async fn post(&self, rest: &str, body: Value) -> Answer {
        let path = format!("{}{rest}", self.base);
        post(self.server.address, &path, &body.to_string()).await
    }

    pub(crate) async fn delete(&self, rest: &str) -> Answer {
        let path = format!("{}{rest}", self.base);
        send(self.server.address, "DELETE", &path, "", b"").await
    }

    pub(crate) async fn write(&self, path: &str) {
        let written = self.post("", json!({"path": path, "content": path})).await;
        assert_eq!(written.status, 200, "{path}: {}", written.text());
    }

    pub(crate) async fn stat(&self, path: &str) -> Value {
        let answer = self.get(&format!("/stat?path={path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }
}

#[tokio::test]
async fn a_description_has_exactly_its_fields() {
    let files = Files::new().await;
    files.write("/workspace/dir/file").await;
    let shell = "touch dir/mine; ln -s dir/file link; ln -s nowhere dangling; chmod 4751 dir/mine";
    files.server.shell(&files.id, shell).await;
    let mine = files.stat("/workspace/dir/mine").await;
    for (path, mode, size, is_dir, target) in [
        ("dir/file", Some("0644"), Some(19), false, None),
        ("dir/mine", Some("4751"), Some(0), false, None),
        ("dir", Some("0755"), None, true, None),
        ("link", None, None, false, Some("dir/file")),
        ("dangling", None, None, false, Some("nowhere")),
    ] {
        let info = files.stat(&format!("/workspace/{path}")).await;
        let mut keys = vec![
            "group",
            "is_dir",
            "is_symlink",
            "mod_time",
            "mode",
            "name",
            "owner",
            "path",
            "size",
        ];
        if target.is_some() {
            keys.push("symlink_target");
        }
        let found: Vec<_> = info.as_object().unwrap().keys().cloned().collect();
        assert_eq!(found, keys, "{path}");
        let name = path.rsplit('/').next().unwrap();
        assert_eq!(
            (&info["name"], &info["is_dir"]),
            (&json!(name), &json!(is_dir))
        );
        assert_eq!(info["path"], format!("/workspace/{path}"));
        assert_eq!(info["is_symlink"], target.is_some(), "{path}");
        assert_eq!(info["symlink_target"].as_str(), target);
        assert!(mode.is_none_or(|mode| info["mode"] == mode), "{info}");
        assert!(size.is_none_or(|size| info["size"] == size), "{info}");
        // What the API makes belongs to who runs commands.
        assert_eq!(
            (&info["owner"], &info["group"]),
            (&mine["owner"], &mine["group"])
        );
        // A listing says the same of it.
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let listed = files.get(&format!("/list?path=/workspace/{parent}")).await;
        let listed = listed.json();
        let same = listed
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["name"] == name);
        assert_eq!(same, Some(&info));
    }
    files.server.stop().await;
}

#[tokio::test]
async fn listings_are_one_level_deep_and_sorted_by_name() {
    let files = Files::new().await;
    for name in ["b", "B", "a", "_", "10", "2", "é", "a.b", "a/inner/deep"] {
        if name == "a" {
            continue;
        }
        files.write(&format!("/workspace/list/{name}")).await;
    }
    let names = async |query: &str| -> Vec<String> {
        let answer = files
            .get(&format!("/list?path=/workspace/list{query}"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let list = answer.json();
        let names = list.as_array().unwrap().iter();
        names
            .map(|info| info["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let level = ["10", "2", "B", "_", "a", "a.b", "b", "é"];
    assert_eq!(names("").await, level);
    assert_eq!(names("&depth=1").await, level);
    assert_eq!(names("&depth=2").await.len(), 9);
    assert_eq!(names("&depth=3").await.len(), 10);
    assert_eq!(names("&depth=99").await.len(), 10);
    let file = files.get("/list?path=/workspace/list/b").await;
    file.expect(400, "BAD_REQUEST");
    files.server.stop().await;
}

#[tokio::test]
async fn modes_have_their_defaults_and_are_octal_everywhere() {
    let files = Files::new().await;
    files.write("/workspace/p/q/json").await;
    let raw = format!("{}?path=/workspace/r/raw", files.base);
    let octets = "Content-Type: application/octet-stream\r\n";
    let sent = send(files.server.address, "POST", &raw, octets, b"x").await;
    assert_eq!(sent.text(), "{\"status\":\"written\"}");
    let made = files
        .post("/mkdir", json!({"path": "/workspace/m/n"}))
        .await;
    assert_eq!(made.text(), "{\"status\":\"created\"}");
    for (path, mode) in [
        ("p/q/json", "0644"),
        ("r/raw", "0644"),
        ("m/n", "0755"),
        ("p", "0755"),
        ("p/q", "0755"),
        ("r", "0755"),
        ("m", "0755"),
    ] {
        assert_eq!(
            files.stat(&format!("/workspace/{path}")).await["mode"],
            mode,
            "{path}"
        );
    }
    for wrong in [
        "rwx", "0888", "8", "-1", "+644", "0o644", "0x1ff", "64 4", "10000", "u+x",
    ] {
        for (rest, body) in [
            (
                "",
                json!({"path": "/workspace/no", "content": "", "mode": wrong}),
            ),
            ("/chmod", json!({"path": "/workspace/r/raw", "mode": wrong})),
            ("/mkdir", json!({"path": "/workspace/no", "mode": wrong})),
        ] {
            let answer = files.post(rest, body).await;
            assert_eq!(answer.status, 400, "{rest} {wrong}: {}", answer.text());
            answer.expect(400, "BAD_REQUEST");
        }
    }
    assert_eq!(files.get("/stat?path=/workspace/no").await.status, 404);
    assert_eq!(files.stat("/workspace/r/raw").await["mode"], "0644");
    files.server.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_404_and_a_directory_needs_to_be_meant() {
    let files = Files::new().await;
    files.write("/workspace/full/file").await;
    files
        .post("/mkdir", json!({"path": "/workspace/empty"}))
        .await;
    for rest in [
        "?path=/workspace/none",
        "/stat?path=/workspace/none",
        "/list?path=/workspace/none",
        "/archive?path=/workspace/none",
    ] {
        files.get(rest).await.expect(404, "NOT_FOUND");
    }
    for recursive in ["", "&recursive=true", "&recursive=false"] {
        let rest = format!("?path=/workspace/none{recursive}");
        files.delete(&rest).await.expect(404, "NOT_FOUND");
    }
    let chmod = json!({"path": "/workspace/none", "mode": "600"});
    files.post("/chmod", chmod).await.expect(404, "NOT_FOUND");
    let moved = json!({"old_path": "/workspace/none", "new_path": "/workspace/x/y"});
    files.post("/move", moved).await.expect(404, "NOT_FOUND");
    for directory in ["full", "empty"] {
        for recursive in ["", "&recursive=false", "&recursive=0"] {
            let rest = format!("?path=/workspace/{directory}{recursive}");
            files.delete(&rest).await.expect(400, "BAD_REQUEST");
        }
        files
            .get(&format!("?path=/workspace/{directory}"))
            .await
            .expect(400, "BAD_REQUEST");
        let gone = files
            .delete(&format!("?path=/workspace/{directory}&recursive=true"))
            .await;
        assert_eq!(gone.text(), "{\"status\":\"deleted\"}");
        let rest = format!("/stat?path=/workspace/{directory}");
        files.get(&rest).await.expect(404, "NOT_FOUND");
    }
    files.server.stop().await;
}

#[tokio::test]
async fn patterns_find_absolute_paths_from_wherever_they_start() {
    let files = Files::new().await;
    for name in [
        "a.py",
        "b.py",
        "c.txt",
        "sub/d.py",
        "sub/deep/e.py",
        "sub/deep/f.txt",
    ] {
        files.write(&format!("/workspace/g/{name}")).await;
    }
    for (pattern, found) in [
        ("/workspace/g/*.py", vec!["a.py", "b.py"]),
        ("g/*.py", vec!["a.py", "b.py"]),
        ("g/?.txt", vec!["c.txt"]),
        ("g/[bc].*", vec!["b.py", "c.txt"]),
        ("g/{a,c}.{py,txt}", vec!["a.py", "c.txt"]),
        (
            "g/**/*.py",
            vec!["a.py", "b.py", "sub/d.py", "sub/deep/e.py"],
        ),
        ("g/**/f.txt", vec!["sub/deep/f.txt"]),
        ("g/s*/d.py", vec!["sub/d.py"]),
        ("g/*", vec!["a.py", "b.py", "c.txt", "sub"]),
        ("g/none*", vec![]),
        ("none/*", vec![]),
    ] {
        let escaped = pattern
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('[', "%5B")
            .replace(']', "%5D")
            .replace('?', "%3F");
        let answer = files.get(&format!("/glob?pattern={escaped}")).await;
        let full: Vec<_> = found
            .iter()
            .map(|name| format!("/workspace/g/{name}"))
            .collect();
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!(full)),
            "{pattern}"
        );
    }
    assert_eq!(files.get("/glob?pattern=none*").await.text(), "[]");
    files.server.stop().await;
}

#[tokio::test]
async fn what_is_of_the_wrong_kind_is_the_clients_mistake() {
    let files = Files::new().await;
    files.write("/workspace/full/file").await;
    files
        .server
        .shell(&files.id, "ln -s full way; ln -s loop loop; mkfifo pipe")
        .await;
    let up = |path: &str| json!({"path": path, "content": "x", "mode": "644"});
    let across = |from: &str, to: &str| json!({"old_path": from, "new_path": to});
    let long = "n".repeat(300);
    for answer in [
        files.post("", up("full")).await,
        files.post("", up("full/file/x")).await,
        files.post("", up("loop/x")).await,
        files.post("", up(&long)).await,
        files.post("/mkdir", up("full/file")).await,
        files.post("/mkdir", up("full/file/x")).await,
        files
            .post("/move", across("full/file", "full/file/x"))
            .await,
        files.post("/move", across("full", "full/inside")).await,
        files.post("/move", across("full/file", &long)).await,
        files.get("?path=full/file/x").await,
        files.get("?path=loop").await,
        files.get("?path=pipe").await,
        files.get("/stat?path=full/file/x").await,
        files.get("/list?path=full/file").await,
        files.get("/list?path=loop").await,
        files.get(&format!("?path={long}")).await,
        files.delete("?path=full/file/x").await,
        files.delete("?path=/&recursive=true").await,
    ] {
        assert!(
            matches!(answer.status, 400 | 404 | 409),
            "{}: {}",
            answer.status,
            answer.text()
        );
        answer.code();
    }
    // A link to a directory is a link: it goes, and what it leads to stays.
    for recursive in ["", "&recursive=true"] {
        let gone = files.delete(&format!("?path=way{recursive}")).await;
        assert_eq!(gone.text(), "{\"status\":\"deleted\"}", "{recursive}");
        let kept = files.get("?path=full/file").await;
        assert_eq!(kept.text(), "/workspace/full/file");
        files.server.shell(&files.id, "ln -s full way").await;
    }
    files.server.stop().await;
}
