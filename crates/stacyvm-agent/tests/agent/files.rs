//! File operations over the wire; their semantics are tested where they are implemented.

use bytes::Bytes;
use stacyvm_agent_client::{ByteReceiver, OpError, ReadRange, WriteOptions};
use stacyvm_types::FileMode;
use tokio::sync::mpsc;

use crate::harness::{TestAgent, soon};

const OPTIONS: WriteOptions = WriteOptions {
    mode: FileMode::FILE,
    parents: true,
};

fn data(chunks: Vec<Result<Bytes, OpError>>) -> ByteReceiver {
    let (queue, data) = mpsc::channel(chunks.len().max(1));
    for chunk in chunks {
        queue.try_send(chunk).unwrap();
    }
    data
}

async fn collect(mut data: ByteReceiver) -> Result<Vec<u8>, OpError> {
    let mut all = Vec::new();
    while let Some(chunk) = soon(data.recv()).await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

#[tokio::test]
async fn large_files_go_in_and_out() {
    let sandbox = TestAgent::new().await;
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|number| (number / 251) as u8)
        .collect();
    let chunks = content
        .chunks(300_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    sandbox
        .agent
        .write("a/b/large", OPTIONS, data(chunks.collect()))
        .await
        .unwrap();
    let read = sandbox
        .agent
        .read("/workspace/a/b/large", ReadRange::default())
        .await
        .unwrap();
    assert_eq!((read.info.size, &*read.info.name), (5_000_000, "large"));
    assert_eq!(collect(read.data).await.unwrap(), content);
    let range = ReadRange {
        offset: 4_999_990,
        length: Some(5),
    };
    let read = sandbox.agent.read("a/b/large", range).await.unwrap();
    assert_eq!(
        collect(read.data).await.unwrap(),
        &content[4_999_990..4_999_995]
    );
}

#[tokio::test]
async fn an_aborted_write_leaves_nothing() {
    let sandbox = TestAgent::new().await;
    let broken = OpError::Failed("the upload broke".into());
    let chunks = vec![Ok(Bytes::from_static(b"half")), Err(broken.clone())];
    let result = sandbox.agent.write("file", OPTIONS, data(chunks)).await;
    assert_eq!(result, Err(broken));
    sandbox.agent.ping().await.unwrap();
    assert!(matches!(
        sandbox.agent.stat("file").await,
        Err(OpError::NotFound(_))
    ));
    assert_eq!(sandbox.agent.list("/workspace", 1).await.unwrap(), []);
}

#[tokio::test]
async fn a_write_that_cannot_be_is_told_while_data_comes() {
    let sandbox = TestAgent::new().await;
    let (queue, endless) = mpsc::channel(1);
    let feeding = tokio::spawn(async move {
        while queue.send(Ok(Bytes::from(vec![0; 100_000]))).await.is_ok() {}
    });
    let result = soon(sandbox.agent.write("/workspace", OPTIONS, endless)).await;
    assert!(
        matches!(result, Err(OpError::Invalid(_) | OpError::Conflict(_))),
        "{result:?}"
    );
    soon(feeding).await.unwrap();
}

#[tokio::test]
async fn every_short_operation_works() {
    let sandbox = TestAgent::new().await;
    let agent = &sandbox.agent;
    agent.mkdir("d/e", FileMode::DIRECTORY).await.unwrap();
    let hello = data(vec![Ok(Bytes::from_static(b"hello"))]);
    agent.write("d/e/f.txt", OPTIONS, hello).await.unwrap();
    agent
        .chmod("d/e/f.txt", FileMode::from_bits(0o600))
        .await
        .unwrap();
    let info = agent.stat("d/e/f.txt").await.unwrap();
    assert_eq!(
        (info.size, info.mode.bits(), &*info.path),
        (5, 0o600, "/workspace/d/e/f.txt")
    );
    agent.rename("d/e/f.txt", "x/y.txt").await.unwrap();
    assert_eq!(
        agent.glob("/workspace/**/*.txt").await.unwrap(),
        ["/workspace/x/y.txt"]
    );
    let listed = agent.list("/workspace", 2).await.unwrap();
    let paths: Vec<_> = listed.iter().map(|info| &*info.path).collect();
    assert_eq!(
        paths,
        [
            "/workspace/d",
            "/workspace/d/e",
            "/workspace/x",
            "/workspace/x/y.txt"
        ]
    );
    assert!(matches!(
        agent.remove("x", false).await,
        Err(OpError::Invalid(_))
    ));
    agent.remove("x", true).await.unwrap();
    agent.remove("d/e", true).await.unwrap();
    assert!(matches!(agent.stat("x").await, Err(OpError::NotFound(_))));
    assert!(matches!(
        agent.read("d", ReadRange::default()).await,
        Err(OpError::Invalid(_))
    ));
}

#[tokio::test]
async fn long_listings_arrive_whole() {
    let sandbox = TestAgent::new().await;
    for number in 0..3000 {
        let name = format!("workspace/a-file-with-a-name-of-some-length-{number:05}");
        std::fs::write(sandbox.root().join(name), "").unwrap();
    }
    assert_eq!(
        sandbox.agent.list("/workspace", 1).await.unwrap().len(),
        3000
    );
    assert_eq!(sandbox.agent.glob("*").await.unwrap().len(), 3000);
}

#[tokio::test]
async fn archives_go_out_and_in() {
    let sandbox = TestAgent::new().await;
    let large = Bytes::from(vec![b'z'; 700_000]);
    sandbox
        .agent
        .write("from/one", OPTIONS, data(vec![Ok(large)]))
        .await
        .unwrap();
    let two = data(vec![Ok(Bytes::from_static(b"two"))]);
    sandbox
        .agent
        .write("from/sub/two", OPTIONS, two)
        .await
        .unwrap();
    let archive = collect(sandbox.agent.archive_out("from").await.unwrap())
        .await
        .unwrap();
    let chunks = archive
        .chunks(100_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    sandbox
        .agent
        .archive_in("to", data(chunks.collect()))
        .await
        .unwrap();
    let read = std::fs::read(sandbox.root().join("workspace/to/sub/two")).unwrap();
    assert_eq!(read, b"two");
    assert_eq!(sandbox.agent.stat("to/one").await.unwrap().size, 700_000);
    let missing = sandbox.agent.archive_out("nowhere").await;
    assert!(matches!(missing, Err(OpError::NotFound(_))));
    let nonsense = data(vec![Ok(Bytes::from(vec![b'n'; 4096]))]);
    let refused = sandbox.agent.archive_in("bad", nonsense).await;
    assert!(matches!(refused, Err(OpError::Invalid(_))), "{refused:?}");
}
