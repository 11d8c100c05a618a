import numpy as np, torch, pytest
from dovetile import Tensor, dtypes
def test_smoke(reference):
    rng=np.random.default_rng(0)
    x=rng.normal(size=(2,4,9,9)); w=rng.normal(size=(6,2,3,3)); b=rng.normal(size=6)
    for kw in (dict(),dict(padding=1),dict(stride=2,padding=1),dict(dilation=2,padding=2),dict(stride=(2,3))):
        X,W,B=[Tensor(a,requires_grad=True) for a in (x,w,b)]
        tX,tW,tB=[torch.tensor(a,requires_grad=True) for a in (x,w,b)]
        y=X.conv2d(W,B,groups=2,**kw); ty=torch.nn.functional.conv2d(tX,tW,tB,groups=2,**kw)
        np.testing.assert_allclose(y.numpy(),ty.detach().numpy(),rtol=1e-10,atol=1e-12)
        l=(y.tanh().max_pool2d(2).flatten(1).log_softmax()*y.flatten(1).shape[1]).sum() ; tl=(torch.nn.functional.max_pool2d(ty.tanh(),2).flatten(1).log_softmax(-1)*ty.flatten(1).shape[1]).sum()
        l.backward(); tl.backward()
        np.testing.assert_allclose(l.item(),tl.item(),rtol=1e-10)
        for A,tA in ((X,tX),(W,tW),(B,tB)):
            np.testing.assert_allclose(A.grad.numpy(),tA.grad.numpy(),rtol=1e-8,atol=1e-9)
def test_loss(reference):
    rng=np.random.default_rng(0)
    x=rng.normal(size=(5,7)); t=np.array([0,3,6,-100,2])
    X=Tensor(x,requires_grad=True); tX=torch.tensor(x,requires_grad=True)
    l=X.cross_entropy(Tensor(t)); tl=torch.nn.functional.cross_entropy(tX,torch.tensor(t))
    l.backward(); tl.backward()
    assert abs(l.item()-tl.item())<1e-9
    np.testing.assert_allclose(X.grad.numpy(),tX.grad.numpy(),rtol=1e-8)
def test_assign(reference):
    w=Tensor(np.arange(6.).reshape(2,3)); v=w.reshape(-1)
    w.assign(w+1); w[0]=5; v[5]=9
    print(w.numpy(), v.numpy())
    assert w.tolist()==[[5,5,5],[4,5,9]] and v.tolist()==[5,5,5,4,5,9]
    assert Tensor.rand(4).tolist()!=Tensor.rand(4).tolist()
    assert abs(Tensor.randn(10000).std().item()-1)<.03
